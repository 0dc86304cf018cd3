"""The rendered book in a browser: nothing breaks, nothing is loaded from elsewhere, all of it fits.

Looks at what `make html` has built; skipped without it, without playwright (`pip install
seqedit[browser]`) or without a Chromium of this machine.
"""

import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
PAGES = [
    path.relative_to(HTML).as_posix()
    for path in [*sorted((HTML / "chapters").rglob("*.html")), *sorted(HTML.glob("*.html"))]
    if path.name != "index.html" or path.parent != HTML  # that one only forwards
]
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
CHECKED_BY_AXE = ("index", "history", "forgetting", "bibliography", "api/base")

if not PAGES:
    pytest.skip("no rendered book: run `make html` first", allow_module_level=True)
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="pip install seqedit[browser]")

LOOK = """async () => {
  if (window.MathJax) await MathJax.startup.promise;
  const wide = [...document.querySelectorAll("mjx-container[display]")].filter(
    (formula) => formula.scrollWidth > formula.parentElement.clientWidth + 1);
  return {
    overflow: document.documentElement.scrollWidth - innerWidth,
    broken: [...document.images].filter((i) => i.complete && !i.naturalWidth).map((i) => i.src),
    raw: [...document.querySelectorAll("mjx-merror")].map((e) => e.textContent),
    wide: wide.map((formula) => formula.closest("[id]")?.id),
  };
}"""


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page that collects what its console reports and what it asks of other hosts."""
    page = browser.new_page(viewport=DESKTOP)
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(f"error: {error}"))
    page.on(
        "console",
        lambda message: (
            message.type in ("error", "warning")
            and page.problems.append(f"console: {message.text}")
        ),
    )
    page.on(
        "request",
        lambda request: (
            request.url.startswith(("file:", "data:", "blob:"))
            or page.problems.append(f"loads {request.url}")
        ),
    )
    yield page
    page.close()


@pytest.mark.parametrize("name", PAGES)
def test_page_fits_and_is_quiet(page, name):
    """At 1280 and 390 pixels; formulas that are set off fit the wider one."""
    page.goto((HTML / name).as_uri())
    found = page.evaluate(LOOK)
    assert found == {"overflow": 0, "broken": [], "raw": [], "wide": []}
    page.set_viewport_size(PHONE)
    found = page.evaluate(LOOK)
    assert (found["overflow"], found["broken"]) == (0, [])
    assert page.problems == []


@pytest.mark.parametrize("name", PAGES)
def test_page_says_what_it_is(name):
    """A description for search engines; no trace of the folder in which the book was built."""
    text = (HTML / name).read_text(encoding="utf-8")
    assert not name.startswith("chapters/") or '<meta name="description"' in text
    assert str(ROOT) not in text


DRAWN = """() => [...document.querySelectorAll(".interactive .plot .trace")]
    .map((trace) => trace.innerHTML).join()"""


@pytest.mark.parametrize(
    "name, control",
    [
        ("null_space", "input[type=range]"),
        ("condition", "input[type=range]"),
        ("explorer", "input[type=checkbox]"),
    ],
)
def test_interactive_figures_answer_to_the_keyboard(page, name, control):
    page.goto((HTML / "chapters" / f"{name}.html").as_uri())
    page.locator(".interactive").first.evaluate("box => box.scrollIntoView()")
    page.locator(".interactive.ready").first.wait_for()
    before = page.evaluate(DRAWN)
    page.locator(f".interactive {control}").first.press(
        "ArrowRight" if "range" in control else "Space"
    )
    page.wait_for_function("before => (" + DRAWN + ")() !== before", arg=before)
    assert before and page.locator("figure.live > img:visible").count() == 0
    assert page.problems == []


def test_figures_are_pictures_where_no_script_runs(browser):
    page = browser.new_page(java_script_enabled=False)
    page.goto((HTML / "chapters" / "explorer.html").as_uri())
    assert page.locator("#fig-explorer img").first.is_visible()
    page.locator(".interactive summary").click()
    assert page.locator(".interactive td").first.is_visible()
    page.close()


def test_long_tables_sort_and_filter(page):
    page.goto((HTML / "chapters" / "explorer.html").as_uri())
    page.locator(".interactive.ready").wait_for()
    page.locator(".interactive summary").click()
    table = page.locator(".interactive table")
    cells = table.locator("tbody tr:not([hidden]) td:nth-child(4)")
    table.locator("th").nth(3).click()
    found = [float(text.split("\N{NO-BREAK SPACE}")[0]) for text in cells.all_inner_texts()]
    assert found in (sorted(found), sorted(found, reverse=True)) and len(found) > 12
    page.locator("input.filter").first.fill("GRACE perplexity")
    shown = table.locator("tbody tr:not([hidden])").all_inner_texts()
    assert 0 < len(shown) < len(found) and all("GRACE" in row for row in shown)


def test_powers_of_ten_sort_by_their_value(page):
    """One click puts 2·10⁻¹⁵ before 1·10⁻⁷, whatever the digits before the power."""
    page.goto((HTML / "chapters" / "methods.html").as_uri())
    powers = "·10"
    table = page.locator("table.table", has_text=powers).filter(has=page.locator("th[title]")).first
    column = next(
        i
        for i, cell in enumerate(table.locator("tbody tr").first.locator("td").all())
        if powers in cell.inner_text()
    )
    table.locator("thead th").nth(column).click()
    told = [
        cell.split(" ")[0]
        for cell in table.locator(f"td:nth-child({column + 1})").all_inner_texts()
    ]
    signs = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
    found = [float(text.translate(signs).replace(powers, "e")) for text in told if powers in text]
    assert found in (sorted(found), sorted(found, reverse=True)) and len({*found}) > 3


def test_paper_is_white(browser):
    """A dark page is printed in light colours, with its title and without fields to fill in."""
    page = browser.new_context(viewport=DESKTOP).new_page()
    page.add_init_script(
        "localStorage.setItem('mode', 'dark'); localStorage.setItem('theme', 'dark')"
    )
    page.goto((HTML / "chapters" / "methods.html").as_uri())
    theme = "document.documentElement.dataset.theme"
    assert page.evaluate(theme) == "dark"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.evaluate(theme) == "light"
    assert page.locator(".bd-article h1").first.is_visible()
    assert not page.locator("input.filter").first.is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(theme) == "dark"
    page.context.close()


def test_facts_open_by_keyboard_and_filter(page):
    """One fact is open at a time; on a phone its answers stand below each other."""
    page.set_viewport_size(PHONE)
    page.goto((HTML / "chapters" / "real_models.html").as_uri())
    entries = page.locator(".facts details")
    assert entries.count() > 50
    for i in (0, 1):
        entries.nth(i).locator("summary").press("Enter")
        assert entries.nth(i).locator("td").first.is_visible()
    assert page.locator(".facts details[open]").count() == 1
    word = entries.nth(1).locator("summary b").inner_text()
    page.get_by_label("Filter the facts").fill(word)
    shown = page.locator(".facts details:not([hidden])").all_text_contents()
    assert 0 < len(shown) < entries.count() and all(word in text for text in shown)
    assert page.problems == []


def test_every_icon_is_drawn():
    """The style sheet has all that the pages name, since the theme's own script is dropped."""
    named = set()
    for name in PAGES:
        text = (HTML / name).read_text(encoding="utf-8")
        for classes in re.findall(r'class="([^"]*\bfa[sr]?(?:-solid)?\b[^"]*)"', text):
            named |= {one for one in classes.split() if one.startswith("fa-")}
    style = (HTML / "_static" / "icons.css").read_text(encoding="utf-8")
    assert {one for one in named if f".{one} " not in style} <= {"fa-solid", "fa-lg"}


def test_problems_are_seen(page, tmp_path):
    """The checks themselves find what they look for."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        '<body style="margin:0"><div style="width:2000px">wide</div><img src="none.png">'
        '<img src="https://other.invalid/x.png"><script>undefined_name()</script>'
    )
    page.goto(bad.as_uri())
    found = page.evaluate(LOOK)
    assert found["overflow"] == 2000 - DESKTOP["width"] and len(found["broken"]) >= 1
    assert any("undefined_name" in problem for problem in page.problems)
    assert "loads https://other.invalid/x.png" in page.problems


@pytest.mark.parametrize("name", CHECKED_BY_AXE)
def test_accessibility(page, name):
    """axe-core finds nothing serious, in either theme."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.goto((HTML / "chapters" / f"{name}.html").as_uri())
        page.add_style_tag(content="* { transition: none !important }")  # no colour half-way
        found = axe.run(page, options={"resultTypes": ["violations"]}).response["violations"]
        serious = [
            (one["id"], one["nodes"][0]["html"][:200], len(one["nodes"]))
            for one in found
            if one["impact"] in ("serious", "critical")
        ]
        assert serious == [], scheme
