import base64
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pipelines.figures import png_bytes, rank_bars
from pipelines.report import Fact, Picture, Table, write_report

PNG = png_bytes(rank_bars([1, 2, 3]))
WIDE = png_bytes(rank_bars([1, 2, 3]), dpi=300)
VOID = {"meta", "link", "img"}


class Page(HTMLParser):
    """Tags with their attributes in order, the text, and whether every tag was closed in turn."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(content)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page(run: Path, **parts: Any) -> Page:
    facts = [Fact("RMSE", 0.091234, "optimal interpolation 0.389"), Fact("members", "3 of 3")]
    tables = [
        Table("Members", ["member", "loss", "ok"], [["0000", 0.5, True], ["0001", None, False]])
    ]
    pictures = [Picture("ranks", "a rising histogram", PNG), Picture("wide", "the same", WIDE)]
    given: dict[str, Any] = {
        "facts": facts,
        "tables": tables,
        "pictures": pictures,
        "lead": "small",
    } | parts
    target = write_report(run, "Kolmogorov flow", **given)
    assert target == run / "report" / "index.html"
    return Page(target.read_text("utf-8"))


def test_the_page_says_what_it_was_given(tmp_path: Path) -> None:
    text = page(tmp_path).text
    for said in ("Kolmogorov flow", "small", "RMSE 0.09123 optimal", "3 of 3", "0000 0.5 yes"):
        assert said in text
    assert "0001 – no" in text


def test_pictures_are_inside_and_nothing_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    found = page(tmp_path, pictures=[Picture("ranks", "a rising histogram", tmp_path / "a.png")])
    (image,) = found.all("img")
    head, _, content = (image["src"] or "").partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(content) == PNG
    assert image["alt"] == "a rising histogram"
    loaded = [a.get(key) or "" for _, a in found.tags for key in ("src", "href")]
    assert all(not link or link.startswith(("data:", "#")) for link in loaded)
    assert not {"script", "iframe", "object"} & {tag for tag, _ in found.tags}
    policies = [meta.get("content") or "" for meta in found.all("meta")]
    assert any(policy.startswith("default-src 'none'") for policy in policies)


def test_structure_for_keyboards_and_screen_readers(tmp_path: Path) -> None:
    found = page(tmp_path)
    assert found.all("html")[0]["lang"] == "en"
    assert len(found.all("h1")) == len(found.all("main")) == len(found.all("nav")) == 1
    names = [a["id"] for _, a in found.tags if "id" in a]
    assert len(names) == len(set(names))
    targets = [(a["href"] or "")[1:] for a in found.all("a")]
    assert targets == ["content", "summary", "figures", "table-0"]
    assert set(targets) <= set(names)
    labels = [section["aria-labelledby"] for section in found.all("section")]
    assert set(labels) <= set(names)
    assert [cell.get("scope") for cell in found.all("th")] == ["col"] * 3 + ["row"] * 2
    scrolled = [
        a for a in found.all("div") if a.get("class") in ("scroll", "paper") and "role" in a
    ]
    assert len(scrolled) == 2
    assert all(a["tabindex"] == "0" and a["aria-label"] for a in scrolled)


def test_numbers_are_set_to_the_right_and_words_are_not(tmp_path: Path) -> None:
    cells = [a.get("class") for a in page(tmp_path).all("td")]
    assert cells == ["number", None] * 2


def test_text_is_text_and_never_markup(tmp_path: Path) -> None:
    evil = "<script>alert('1')</script> & \"$title\" ümlaut"
    found = page(
        tmp_path / "läuft & <b>",
        facts=[Fact(evil, evil, evil)],
        tables=[Table(evil, [evil], [[evil]], evil)],
        pictures=[Picture(evil, evil, WIDE)],
        lead=evil,
    )
    assert "script" not in {tag for tag, _ in found.tags}
    assert found.text.count(evil) == 10
    assert found.all("img")[0]["alt"] == evil


def test_sections_without_content_are_left_out(tmp_path: Path) -> None:
    found = page(tmp_path, facts=[], tables=[], pictures=[])
    assert found.all("section") == []
    assert found.all("a") == [{"class": "skip", "href": "#content"}]


def test_writing_again_replaces_the_page_and_leaves_nothing_else(tmp_path: Path) -> None:
    page(tmp_path, lead="first")
    assert "second" in page(tmp_path, lead="second").text
    assert [file.name for file in (tmp_path / "report").iterdir()] == ["index.html"]
    before = (tmp_path / "report/index.html").read_bytes()
    page(tmp_path, lead="second")
    assert (tmp_path / "report/index.html").read_bytes() == before


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"tables": [Table("T", ["a", "b"], [[1]])]}, "table 'T': rows and columns"),
        ({"pictures": [Picture("P", "words", b"GIF89a")]}, "picture 'P': not a PNG"),
        ({"pictures": [Picture("P", " ", PNG)]}, "needs a text for those who do not see it"),
    ],
)
def test_what_cannot_be_shown_is_refused(
    tmp_path: Path, parts: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        page(tmp_path, **parts)
    assert not (tmp_path / "report").exists()
