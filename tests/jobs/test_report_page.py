"""The pages in a real Chromium: opened, read, typed into; and ``report --watch``."""

import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.array_run import make_array
from support.audit import AUDIT
from support.browser import Browser, require_browser
from support.commandline import COMMAND, yaoki
from support.waiting import wait

from cluster.cause import Cause
from cluster.records.ledger import here
from pipelines.report import Measured, Table
from pipelines.report.elements import table_html
from pipelines.report.page import Block, write_page

TAB, ENTER = ("Tab", 9), ("Enter", 13, "\r")

#: Texts whose contrast with what is behind them is below 4.5 to 1, the AA of WCAG 2.2.
FAINT = """(() => {
  const rgba = (text) => (text.match(/[\\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
  const light = (color) => {
    const [r, g, b] = rgba(color).slice(0, 3).map((part) => {
      const c = part / 255;
      return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if ((rgba(color)[3] ?? 1) > 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const faint = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    const drawn = node.tagName !== "title" && node.tagName !== "desc" && node.tagName !== "SCRIPT";
    if (!own || !drawn) continue;
    const style = getComputedStyle(node);
    const ink = node.tagName === "text" ? style.fill : style.color;
    const [a, b] = [light(ink), light(behind(node))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) faint.push(`${node.tagName} ${node.textContent}`);
  }
  return faint;
})()"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests of this file."""
    require_browser()
    with tempfile.TemporaryDirectory() as profile, Browser(Path(profile)) as browser:
        yield browser


@pytest.fixture(scope="module")
def array_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of an array of which one member has failed."""
    run = tmp_path_factory.mktemp("array") / "run"
    stage = make_array(run, members=40)
    number = stage.member(7).ledger.start(here())
    stage.member(7).ledger.end(number, Cause.ERROR, error="ValueError: no")
    assert yaoki("report", run).code == 0
    return run / "report" / "index.html"


@pytest.fixture(scope="module")
def job_page(smoke_run: Path) -> Path:
    """The page that the job itself has left, with pictures."""
    return smoke_run / "report" / "index.html"


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("which", ["array_page", "job_page"])
def test_pages_fit_and_load_nothing_and_complain_of_nothing(
    browser: Browser, request: pytest.FixtureRequest, which: str, width: int
) -> None:
    page: Path = request.getfixturevalue(which)
    shots = []
    for dark in (False, True):
        browser.open(page, width, dark=dark)
        browser.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        assert browser.complaints == []
        assert [url for url in browser.requests if not url.startswith("data:")] == [page.as_uri()]
        assert browser.run("document.documentElement.scrollWidth") == width
        assert browser.run(FAINT) == []
        shots.append(browser.screenshot())
    assert shots[0] != shots[1]
    assert all(len(shot) > 5_000 for shot in shots)


def test_every_picture_has_a_name_for_screen_readers(browser: Browser, job_page: Path) -> None:
    browser.open(job_page)
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    seen = [n for n in nodes if not n.get("ignored")]
    named: dict[str, list[str]] = defaultdict(list)
    for node in seen:
        named[node["role"]["value"]].append(node.get("name", {}).get("value", ""))
    assert len(named["image"]) > 4
    assert all(named["image"])
    assert len(named["main"]) == len(named["navigation"]) == 1
    assert all(named["region"])
    assert "Members" in named["heading"]


@pytest.mark.parametrize("which", ["array_page", "job_page"])
def test_an_audit_finds_nothing_in_light_or_dark_on_a_phone_or_a_laptop(
    browser: Browser, request: pytest.FixtureRequest, which: str
) -> None:
    page: Path = request.getfixturevalue(which)
    for width, dark in ((390, True), (390, False), (1280, True), (1280, False)):
        browser.open(page, width, dark=dark)
        assert browser.run(AUDIT) == []
        browser.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        assert browser.run(AUDIT) == []


def test_the_audit_finds_what_is_wrong(browser: Browser, job_page: Path) -> None:
    browser.open(job_page)
    for harm, told in (
        ("document.querySelector('img').removeAttribute('alt')", "no alt"),
        ("document.querySelector('h2').outerHTML = '<h4>x</h4>'", "level 4 after one of 1"),
        ("document.querySelector('a').tabIndex = 3", "an order of its own"),
        ("document.querySelector('.key').style.fill = 'white'", "faint"),
        (
            "document.querySelector('input').parentNode.replaceWith(document.createElement('input'))",
            "no label",
        ),
    ):
        browser.run(harm)
        assert any(told in line for line in browser.run(AUDIT)), told


def test_the_focus_goes_down_the_page(browser: Browser, job_page: Path) -> None:
    browser.open(job_page)
    place = (
        "[...document.querySelectorAll('*')].indexOf(document.activeElement) "
        "* (document.activeElement !== document.body)"
    )
    places = [0]
    while True:
        browser.press(*TAB)
        at = browser.run(place)
        if at <= places[-1]:
            break
        places.append(at)
    wanted = "a[href], button, input, select, summary, [tabindex='0']"
    seen = f'[...document.querySelectorAll("{wanted}")].filter((n) => n.checkVisibility())'
    assert len(places) - 1 == browser.run(f"{seen}.length") > 40


def test_the_keyboard_reaches_and_works_everything(browser: Browser, array_page: Path) -> None:
    browser.open(array_page)
    browser.press(*TAB)
    assert browser.run("document.activeElement.className") == "skip"
    assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert browser.run("document.activeElement.getBoundingClientRect().left") >= 0
    browser.press(*ENTER)
    assert browser.run("location.hash") == "#content"
    reached = []
    for _ in range(30):
        browser.press(*TAB)
        reached.append(browser.run("document.activeElement.tagName"))
        if reached[-1] == "SUMMARY" and "SUMMARY" not in reached[:-1]:
            browser.press(*ENTER)
    assert {"SUMMARY", "INPUT", "SELECT", "BUTTON", "A", "DIV"} <= set(reached)
    assert browser.run("document.querySelector('details').open")


def test_members_are_chosen_and_sorted(browser: Browser, array_page: Path) -> None:
    browser.open(array_page)
    shown = "[...document.querySelectorAll('[data-filtered] tbody tr')].filter((r) => !r.hidden)"
    first = f"{shown}[0].cells[0].textContent"
    assert browser.run(f"{shown}.length") == 40
    browser.run("document.querySelector('.tools input').focus()")
    browser.type("ValueError")
    assert browser.run(f"{shown}.length") == 1
    assert browser.run(first) == "train/0007"
    assert browser.run("document.querySelector('output').textContent") == "1 of 40"
    browser.run(
        "const box = document.querySelector('.tools input'); box.value = ''; "
        "box.dispatchEvent(new Event('input'))"
    )
    browser.run("document.querySelector('[data-filtered] th button').focus()")
    for expected, order in (("train/0000", "ascending"), ("train/0039", "descending")):
        browser.press(*ENTER)
        assert browser.run(first) == expected
        assert browser.run("document.querySelector('[aria-sort]').ariaSort") == order


def test_times_are_sorted_by_their_length_and_not_by_their_letters(
    browser: Browser, tmp_path: Path
) -> None:
    rows = [
        [text, Measured(seconds, text), "ok"]
        for seconds, text in ((725.0, "12:05"), (9.0, "9.0s"), (3700.0, "1h01"))
    ]
    table = Table("Times", ["name", "took", "state"], rows, filtered="state")
    page = tmp_path / "index.html"
    write_page(page, "Times", "", [Block("times", "Times", table_html(table))])
    browser.open(page)
    browser.run("document.querySelectorAll('th button')[1].click()")
    names = "[...document.querySelectorAll('tbody th')].map((cell) => cell.textContent)"
    assert browser.run(names) == ["9.0s", "12:05", "1h01"]


def test_without_script_there_is_as_much_to_read(browser: Browser, array_page: Path) -> None:
    texts = []
    for script in (True, False):
        browser.open(array_page, script=script)
        root = browser.call("DOM.getDocument")["root"]["nodeId"]
        main = browser.call("DOM.querySelector", nodeId=root, selector="main")["nodeId"]
        html = browser.call("DOM.getOuterHTML", nodeId=main)["outerHTML"]
        texts.append(html.count("train/00"))
    assert texts[0] == texts[1] > 200
    assert browser.complaints == []


def test_a_page_that_loads_itself_again_keeps_what_was_typed(
    browser: Browser, array_page: Path, tmp_path: Path
) -> None:
    page = tmp_path / "index.html"
    assert yaoki("report", array_page.parents[1], "--html", page).code == 0
    box = '<p><input type="checkbox" id="refresh" data-seconds="{}" checked></p><nav aria'
    plain = page.read_text("utf-8")
    page.write_text(plain.replace("<nav aria", box.format(0.2)))
    browser.open(page)
    browser.wait_for("Page.loadEventFired", times=3)
    content = plain.replace("<nav aria", box.format(3600))
    page.write_text(content)
    browser.open(page)
    browser.run("document.querySelector('.tools input').focus()")
    browser.type("ValueError")
    browser.run("scrollTo({top: 300, behavior: 'instant'})")
    page.write_text(content.replace("<h1>run", "<h1>run, later"))
    browser.call("Page.reload")
    browser.wait_for("Page.loadEventFired", times=2)
    assert browser.run("document.querySelector('h1').textContent") == "run, later"
    assert browser.run("document.querySelector('.tools input').value") == "ValueError"
    assert abs(browser.run("scrollY") - 300) < 20  # the browser may hold on to a line
    browser.run("document.querySelector('#refresh').click()")
    browser.call("Page.reload")
    browser.wait_for("Page.loadEventFired", times=3)
    assert browser.run("document.querySelector('#refresh').checked") is False
    assert browser.complaints == []


def test_a_browser_follows_a_watch_until_all_have_ended(browser: Browser, tmp_path: Path) -> None:
    stage = make_array(tmp_path / "run", members=2)
    worker = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    ledger = stage.member(1).ledger
    number = ledger.start(here(worker.pid))
    page = tmp_path / "run" / "report" / "index.html"
    command = [*COMMAND, "report", str(tmp_path / "run"), "--watch", "--every", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
        wait(lambda: page.exists() and "load again every 1 s" in page.read_text("utf-8"), "a page")
        browser.open(page)
        assert "▶ running" in browser.run("document.body.textContent")
        ledger.end(number, Cause.FINISHED)
        worker.communicate(b"\n")
        out, _ = watch.communicate(timeout=60)
    assert watch.returncode == 0
    assert f"page: {page}" in out
    loads = 1
    while browser.run("document.querySelector('#refresh') !== null"):
        loads += 1
        browser.wait_for("Page.loadEventFired", times=loads)
    text = browser.run("document.body.textContent")
    assert "2 of 2" in text
    assert "running" not in text
    assert browser.complaints == []


def test_report_says_where_the_page_is_or_why_there_is_none(tmp_path: Path) -> None:
    make_array(tmp_path / "run", members=1)
    done = yaoki("report", tmp_path / "run", "--no-html")
    assert "page" not in done.out
    assert not (tmp_path / "run" / "report").exists()
    assert yaoki("report", tmp_path / "run", "--json").record["members"][0]["attempts"] == 2
    assert not (tmp_path / "run" / "report").exists()
    (tmp_path / "run" / "report").write_text("in the way")
    assert yaoki("report", tmp_path / "run").code == 74
    target = tmp_path / "p.html"
    assert f"page: {target}" in yaoki("report", tmp_path / "run", "--html", target).out


def test_two_runs_are_compared(browser: Browser, smoke_run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(smoke_run, tmp_path / "other run")
    plan = other / "plan.yaml"
    plan.write_text(plan.read_text().replace("epochs: 10", "epochs: 20"))
    page = tmp_path / "both.html"
    done = yaoki("compare", smoke_run, other, "--html", page)
    assert "configuration\ttraining.epochs\t10\t20\n" in done.out
    assert f"page: {page}" in done.out
    record = yaoki("compare", smoke_run, other, "--json").record
    assert record["configuration"] == {"training.epochs": [10, 20]}
    assert record["accounts"]["finished"] == [7, 7]
    assert record["scores"]["crps"][0] == record["scores"]["crps"][1]
    browser.open(page, width=360)
    assert browser.complaints == []
    assert browser.run("document.documentElement.scrollWidth") == 360
    assert browser.run("document.querySelectorAll('img').length") == 6
    assert browser.run(FAINT) == []
    assert yaoki("compare", smoke_run, tmp_path / "none").code == 2
