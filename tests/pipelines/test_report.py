"""Facts, tables and pictures of a page, and the sections that a workload leaves for it."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.html import Page

from cluster.stage import RunError
from pipelines.figures import png_bytes, rank_bars
from pipelines.report import Fact, Link, Measured, Picture, Section, Table, load_sections
from pipelines.report.elements import section_html
from pipelines.report.page import Block, write_page
from pipelines.report.stored import save_section

PNG = png_bytes(rank_bars([1, 2, 3]))
WIDE = png_bytes(rank_bars([1, 2, 3]), dpi=300)


@pytest.fixture
def section(tmp_path: Path) -> Section:
    """One of everything, its pictures under the report of a run."""
    folder = tmp_path / "run" / "report"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(PNG)
    (folder / "b.png").write_bytes(WIDE)
    return Section(
        "Flow",
        "small",
        [Fact("RMSE", 0.091234, "optimal interpolation 0.389"), Fact("members", "3 of 3")],
        [
            Picture("ranks", "a rising histogram", folder / "a.png"),
            Picture("wide", "the same", folder / "b.png"),
        ],
        [Table("Members", ["member", "loss", "ok"], [["0000", 0.5, True], ["0001", None, False]])],
    )


def page(tmp_path: Path, section: Section, **parts: Any) -> Page:
    target = tmp_path / "index.html"
    blocks = [Block("flow", section.title, section_html(section))]
    given: dict[str, Any] = {"title": "Kolmogorov flow", "lead": "at noon"} | parts
    write_page(target, blocks=blocks, **given)
    return Page(target.read_text("utf-8"))


def test_the_page_says_what_it_was_given(tmp_path: Path, section: Section) -> None:
    text = page(tmp_path, section).text
    for said in ("Kolmogorov flow", "at noon", "small", "RMSE 0.09123 optimal", "0000 0.5 yes"):
        assert said in text
    assert "0001 – no" in text


def test_pictures_are_inside_and_nothing_is_loaded(tmp_path: Path, section: Section) -> None:
    found = page(tmp_path, section)
    image = found.all("img")[0]
    head, _, content = (image["src"] or "").partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(content) == PNG
    assert image["alt"] == "a rising histogram"
    loaded = [a.get(key) or "" for _, a in found.tags for key in ("src", "href")]
    assert all(not link or link.startswith(("data:", "#")) for link in loaded)
    policies = [meta.get("content") or "" for meta in found.all("meta")]
    (policy,) = [text for text in policies if text.startswith("default-src 'none'")]
    assert "unsafe" not in policy


def test_structure_for_keyboards_and_screen_readers(tmp_path: Path, section: Section) -> None:
    found = page(tmp_path, section)
    assert found.all("html")[0]["lang"] == "en"
    assert len(found.all("h1")) == len(found.all("main")) == len(found.all("nav")) == 1
    names = [a["id"] for _, a in found.tags if "id" in a]
    assert len(names) == len(set(names))
    targets = [(a["href"] or "")[1:] for a in found.all("a")]
    assert targets == ["content", "flow"]
    assert set(targets) <= set(names)
    assert {a["aria-labelledby"] for a in found.all("section")} <= set(names)
    assert [cell.get("scope") for cell in found.all("th")] == ["col"] * 3 + ["row"] * 2
    scrolled = [
        a for a in found.all("div") if a.get("class") in ("scroll", "paper") and "role" in a
    ]
    assert len(scrolled) == 2
    assert all(a["tabindex"] == "0" and a["aria-label"] for a in scrolled)


def test_numbers_are_set_to_the_right_and_words_are_not(tmp_path: Path, section: Section) -> None:
    cells = [a.get("class") for a in page(tmp_path, section).all("td")]
    assert cells == ["number", None] * 2


def test_cells_may_lead_somewhere_or_be_sorted_by_their_value(tmp_path: Path) -> None:
    row = [Link("train/0000", "../members/train/0000"), Measured(725.0, "12:05")]
    found = page(tmp_path, Section("T", tables=[Table("T", ["member", "took"], [row])]))
    assert found.all("a")[-1] == {"href": "../members/train/0000"}
    assert found.all("td") == [{"class": "number", "data-value": "725"}]
    assert "train/0000 12:05" in found.text


def test_text_is_text_and_never_markup(tmp_path: Path, section: Section) -> None:
    evil = "<script>alert('1')</script> & \"$title\" ümlaut"
    strange = Section(
        evil,
        evil,
        [Fact(evil, evil, evil)],
        [Picture(evil, evil, section.pictures[1].png)],
        [Table(evil, [evil], [[evil], [Link(evil, evil)]], evil)],
    )
    found = page(tmp_path, strange, title=evil, lead=evil, footer=evil)
    assert len(found.all("script")) == 1
    # Title twice, lead, footer; link, heading and lead of the section; three of the fact, one of
    # the picture, and of the table its heading, caption, column and rows.
    assert found.text.count(evil) == 4 + 3 + 3 + 1 + 5
    assert found.all("img")[0]["alt"] == evil


def test_a_page_that_is_to_be_loaded_again_can_be_stopped(tmp_path: Path) -> None:
    found = page(tmp_path, Section("T"), refresh=30.0)
    assert [m["content"] for m in found.all("meta") if m.get("http-equiv") == "refresh"] == ["30"]
    (box,) = found.all("input")
    assert box["data-seconds"] == "30"
    assert "load again every 30 s" in found.text
    assert page(tmp_path, Section("T")).all("input") == []


def test_writing_again_replaces_the_page_and_leaves_nothing_else(
    tmp_path: Path, section: Section
) -> None:
    folder = tmp_path / "pages"
    page(folder, section, lead="first")
    assert "second" in page(folder, section, lead="second").text
    assert [file.name for file in folder.iterdir()] == ["index.html"]
    before = (folder / "index.html").read_bytes()
    page(folder, section, lead="second")
    assert (folder / "index.html").read_bytes() == before


def test_what_cannot_be_shown_is_refused(tmp_path: Path) -> None:
    gif, png = tmp_path / "a.gif", tmp_path / "a.png"
    gif.write_bytes(b"GIF89a")
    png.write_bytes(PNG)
    for section, message in (
        (Section("S", tables=[Table("T", ["a", "b"], [[1]])]), "table 'T': rows and columns"),
        (Section("S", pictures=[Picture("P", "words", gif)]), "picture 'P': not a PNG"),
        (Section("S", pictures=[Picture("P", " ", png)]), "needs a text for those who do not see"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            section_html(section)


def test_a_section_comes_back_as_it_was_left(tmp_path: Path, section: Section) -> None:
    run = tmp_path / "run"
    save_section(run, "flow", section)
    save_section(run, "a-first", Section("First"))
    first, flow = load_sections(run)
    assert first.title == "First"
    before = section_html(section)
    assert section_html(flow) == before
    moved = (tmp_path / "run").rename(tmp_path / "läuft & more")
    assert section_html(load_sections(moved)[1]) == before
    (moved / "report" / "a.png").unlink()
    assert [p.caption for p in load_sections(moved)[1].pictures] == ["wide"]


def test_sections_that_cannot_be_read_are_named(tmp_path: Path, section: Section) -> None:
    run = tmp_path / "run"
    path = save_section(run, "flow", section)
    for broken in (b"{", json.dumps({"title": "T"}).encode()):
        path.write_bytes(broken)
        with pytest.raises(RunError, match=rf"{re.escape(str(path))}: expected a section"):
            load_sections(run)
    with pytest.raises(ValueError, match="is not in the subpath"):
        save_section(run, "flow", Section("S", pictures=[Picture("P", "w", tmp_path / "a.png")]))
