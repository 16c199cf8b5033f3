"""The explorer in a real Chromium."""

from __future__ import annotations

import csv
import importlib.resources
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.made_run import Made, make_run
from hercules_scale import Hierarchy
from hercules_scale.storage import layout
from hercules_scale.storage.manifest import published_files
from hercules_scale.storage.store import Store
from tests.explorer.conftest import HOSTILE, SIZES, explorer

playwright = pytest.importorskip("playwright.sync_api", reason="make test-browser installs it")

pytestmark = pytest.mark.browser

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SECONDS = 20_000
SCHEMES = ("light", "dark")
NARROW = {"width": 390, "height": 800}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    assert path, "the tests of the explorer need Chromium: apt-get install chromium"
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def page_of(
    chromium: Any, address: str, refused: int | None = None, **options: Any
) -> Iterator[Any]:
    """A page of a person of their own; an error in its console fails the test.

    ``refused`` is the status of answers that a test brings about.
    """
    context = chromium.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    context.set_default_timeout(SECONDS)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))
    page.on(
        "console",
        lambda message: problems.extend([message.text] if message.type == "error" else []),
    )
    page.on("dialog", lambda dialog: problems.append(f"dialog: {dialog.message}"))
    try:
        page.goto(address)
        yield page
        expected = f"the server responded with a status of {refused}"
        assert [each for each in problems if expected not in each] == []
    finally:
        context.close()


@pytest.fixture(scope="module")
def shown(
    text_run: Store, image_run: Store, numeric_run: Store, unfinished_run: Store
) -> Iterator[str]:
    """One explorer over four runs, in this order."""
    runs = (text_run, image_run, numeric_run, unfinished_run)
    with explorer(*(run.uri for run in runs)) as address:
        yield address


def violations(page: Any) -> list[str]:
    """What axe finds that is serious or critical."""
    script = importlib.resources.files("axe_playwright_python").joinpath("axe.min.js").read_text()
    # By the debugger, since the page's policy allows no script but its own.
    page.evaluate(script + "; null")
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [
        f"{each['id']}: {each['help']}: {each['nodes'][0]['html'][:200]}"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


def drawn(page: Any, **wanted: str) -> Any:
    """The map, once it has been drawn as said."""
    attributes = "".join(f"[data-{key}='{each}']" for key, each in wanted.items())
    page.locator(f"canvas{attributes}").wait_for()
    return page.locator("canvas")


def test_the_map_goes_from_the_top_clusters_down_to_items(
    chromium: Any, shown: str, text_run: Store
) -> None:
    with page_of(chromium, f"{shown}#view=map") as page:
        canvas = drawn(page, shown="40", density="no")
        page.locator("label", has_text="Level").locator("select").select_option("2")
        drawn(page, level="2", shown="8")
        canvas.focus()
        page.keyboard.press("ArrowRight")
        page.locator("#said", has_text="level 2").wait_for()
        page.keyboard.press("Enter")
        page.locator(".panel .facts", has_text="Level 2").wait_for()
        cluster_id = int(page.url.split("cluster=2%2F")[1].split("&")[0])
        clusters = Hierarchy.open(text_run.uri).clusters()
        cluster = clusters[(clusters["level"] == 2) & (clusters["cluster_id"] == cluster_id)]
        assert page.locator(".panel h2").inner_text() == cluster["title"].iloc[0]
        # Once more drills in: the level below, and the cluster's items as points.
        canvas.focus()
        page.keyboard.press("Enter")
        drawn(page, level="1", shown=str(cluster["n_children"].iloc[0]),
              points=str(cluster["n_items"].iloc[0]))  # fmt: skip
        # And once more shows the items of a finest cluster, each with its text.
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        page.locator(".panel .facts", has_text="Level 1").wait_for()
        leaf = int(page.url.split("cluster=1%2F")[1].split("&")[0])
        canvas.focus()
        page.keyboard.press("Enter")
        sizes = Hierarchy.open(text_run.uri).clusters(1)["n_items"]
        drawn(page, level="0", shown="0", points=str(sizes[leaf]))
        page.keyboard.press("ArrowRight")
        text = page.locator(".tip p", has_text="number").inner_text()
        assert page.locator(".tip .of").inner_text() == clusters_of(text_run, 1)[leaf]
        page.locator("#said", has_text=text).wait_for()
        page.keyboard.press("Enter")
        page.locator(".panel .pre", has_text=text).wait_for()
        canvas.focus()
        for _ in range(3):
            page.keyboard.press("Backspace")
        drawn(page, shown="40")


def clusters_of(run: Store, level: int) -> list[str]:
    """Titles of a level."""
    titles: list[str] = Hierarchy.open(run.uri).clusters(level)["title"].tolist()
    return titles


def test_the_pointer_reads_items_and_a_lasso_lists_and_saves_them(
    chromium: Any, shown: str, text_run: Store
) -> None:
    with page_of(chromium, f"{shown}#view=map") as page:
        canvas = drawn(page, shown="40", points="3000")
        box = canvas.bounding_box()
        middle = box["y"] + box["height"] / 2
        text = page.locator(".tip p.in", has_text="number")
        for x in range(int(box["x"]) + 40, int(box["x"] + box["width"]), 4):
            page.mouse.move(x, middle)
            if page.locator(".tip .of").is_visible():
                break
        text.wait_for()
        row = int(text.inner_text().split()[-1])
        leaf = int(Hierarchy.open(text_run.uri).memberships()["level_1"][row])
        assert page.locator(".tip .of").inner_text() == clusters_of(text_run, 1)[leaf]
        page.get_by_role("button", name="Lasso").click()
        corners = [
            (2, 2),
            (box["width"] - 2, 2),
            (box["width"] - 2, box["height"] / 2),
            (2, box["height"] / 2),
        ]
        page.mouse.move(box["x"] + 2, box["y"] + 2)
        page.mouse.down()
        for x, y in corners:
            page.mouse.move(box["x"] + x, box["y"] + y, steps=3)
        page.mouse.up()
        marked = page.get_by_role("region", name="Marked")
        marked.locator("li").nth(24).wait_for()
        n = int(
            marked.get_by_text("items marked on the map").inner_text().split()[0].replace(",", "")
        )
        assert 25 < n < 3_000
        assert violations(page) == []
        with page.expect_download() as saved:
            marked.get_by_role("button", name="Save as CSV").click()
        with saved.value.path().open(encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        assert len(rows) == n
        assert all(each["text"].endswith(f"number {each['row']}") for each in rows)
        marked.get_by_role("button", name="Clear").click()
        marked.wait_for(state="detached")


def test_the_map_cannot_be_moved_away_from_its_data(chromium: Any, shown: str) -> None:
    with page_of(chromium, f"{shown}#view=map") as page:
        canvas = drawn(page, shown="40")
        canvas.focus()
        for _ in range(12):
            page.keyboard.press("-")
        box = canvas.bounding_box()
        for _ in range(4):
            page.mouse.move(box["x"] + 5, box["y"] + 5)
            page.mouse.down()
            page.mouse.move(box["x"] + box["width"] - 5, box["y"] + 5, steps=2)
            page.mouse.up()
        page.wait_for_timeout(100)
        assert int(canvas.get_attribute("data-shown")) > 0


def test_a_legend_filters_and_colours_follow_columns(chromium: Any, shown: str) -> None:
    with page_of(chromium, f"{shown}#view=map") as page:
        drawn(page, shown="40")
        legend = page.get_by_role("group", name="Legend")
        # Two top clusters with 20 finest ones each.
        legend.get_by_role("button").first.click()
        drawn(page, shown="20")
        legend.get_by_role("button", name="Show all").click()
        drawn(page, shown="40")
        colour = page.get_by_label("Colour")
        for by, first, n in (("score", "0% to 20%", 5), ("=class", "1", 2), ("level", None, 13)):
            colour.select_option(by)
            if first is not None:
                legend.get_by_role("button", name=first, exact=True).wait_for()
            playwright.expect(legend.locator("button:not([hidden])")).to_have_count(n)


def test_the_map_has_a_space_of_descriptions_and_saves_pictures(
    chromium: Any, shown: str, text_run: Store
) -> None:
    with page_of(chromium, f"{shown}#view=map") as page:
        drawn(page, shown="40")
        page.get_by_label("Layout").select_option("descriptions")
        drawn(page, points="0")
        for scale in ("linear", "log"):
            page.get_by_label("Size").select_option(scale)
        with page.expect_download() as saved:
            page.get_by_role("button", name="Save the map as SVG").click()
        picture = ElementTree.fromstring(saved.value.path().read_text(encoding="utf-8"))
        circles = [
            [float(each.attrib[name]) for name in ("cx", "cy", "r")]
            for each in picture.findall(".//{*}circle")
        ]
        assert len(circles) >= 40
        # Labels are beside bubbles, and whole.
        words = " ".join(clusters_of(text_run, 1) + clusters_of(text_run, 2)).split()
        labels = list(picture.findall(".//{*}text"))
        assert len(labels) > 10
        for label in labels:
            x, y = float(label.attrib["x"]), float(label.attrib["y"])
            assert all((x - cx) ** 2 + (y - 4 - cy) ** 2 > r**2 for cx, cy, r in circles)
            assert set((label.text or "").split()) <= set(words)
        with page.expect_download() as saved:
            page.get_by_role("button", name="Save the map as PNG").click()
        assert saved.value.path().read_bytes().startswith(b"\x89PNG")


def test_a_run_of_three_components_turns_in_three_dimensions(chromium: Any, shown: str) -> None:
    with page_of(chromium, f"{shown}#run=2&view=map") as page:
        canvas = drawn(page, shown="12")
        before = canvas.screenshot()
        page.get_by_label("3D").check()
        box = canvas.bounding_box()
        page.mouse.move(box["x"] + 50, box["y"] + 50)
        page.mouse.down()
        page.mouse.move(box["x"] + 250, box["y"] + 150)
        page.mouse.up()
        page.wait_for_timeout(200)
        assert canvas.screenshot() != before


def test_the_tree_opens_by_keyboard_and_finds_titles(
    chromium: Any, shown: str, text_run: Store
) -> None:
    clusters = Hierarchy.open(text_run.uri).clusters(1)
    with page_of(chromium, f"{shown}#view=tree&cluster=3/0") as page:
        page.locator("#t3-0").focus()
        items = page.locator("[role=treeitem]")
        # Two top clusters stand open with the eight below them.
        assert items.count() == 10
        # Bar and percentage are shares of all items.
        for bar, size in zip(
            page.locator(".bar i").all(), page.locator(".node .size i").all(), strict=True
        ):
            wide = float(bar.get_attribute("style").split("width: ")[1].split("%")[0])
            assert f" · {wide:.1f}%" == size.text_content()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        n_children = int(page.locator(":focus").get_attribute("aria-setsize"))
        assert n_children == 4
        assert page.locator(":focus").get_attribute("aria-expanded") == "true"
        assert items.count() > 10
        page.keyboard.press("Enter")
        page.locator(".panel .facts", has_text="Level 2").wait_for()
        page.get_by_label("Find in titles").fill(clusters["title"][7])
        page.locator(".hit").wait_for()
        assert page.locator(".hit .title").all_inner_texts() == [clusters["title"][7]]
        page.locator("#t1-7 .title").click()
        page.locator(".panel h2", has_text=clusters["title"][7]).wait_for()


def test_the_icicle_fills_its_width_with_what_is_selected(chromium: Any, shown: str) -> None:
    with page_of(chromium, f"{shown}#view=icicle") as page:
        whole = page.locator(".icicles a")
        whole.first.wait_for()
        n_whole = whole.count()
        holder, drawing = page.locator(".icicles"), page.locator(".icicles svg")
        assert drawing.bounding_box()["height"] > 0.95 * holder.bounding_box()["height"]
        assert page.locator(".icicles a[aria-label*='level 1'] text").count() > 20
        whole.first.click()
        page.locator(".icicles a[aria-current]").wait_for()
        assert whole.count() < n_whole
        page.get_by_role("link", name="All items").first.click()
        # The page's policy forbids what wait_for_function evaluates there.
        playwright.expect(page.locator(".icicles a")).to_have_count(n_whole)


def test_a_cluster_pages_through_its_items_and_links_both_ways(
    chromium: Any, shown: str, text_run: Store
) -> None:
    clusters = Hierarchy.open(text_run.uri).clusters(3)
    with page_of(chromium, f"{shown}#view=tree&cluster=3/1") as page:
        page.locator("caption", has_text=f"Items 1 to 25 of {clusters['n_items'][1]:,}").wait_for()
        page.get_by_role("button", name="Next page").click()
        page.locator("caption", has_text="Items 26 to 50").wait_for()
        page.get_by_role("button", name="Last page").click()
        page.locator("caption", has_text=f"to {clusters['n_items'][1]:,} of").wait_for()
        page.locator(".items tbody a").first.click()
        page.locator(".panel .facts", has_text="Item in row").wait_for()
        page.locator("caption", has_text="Ground truth").wait_for()
        page.get_by_role("region", name="Clusters at every level").get_by_role("link").first.click()
        page.locator(".panel .facts", has_text="Level 3").wait_for()
        page.go_back()
        page.locator(".panel .facts", has_text="Item in row").wait_for()


def test_images_and_numbers_are_shown_as_such(chromium: Any, shown: str) -> None:
    with page_of(chromium, f"{shown}#run=1&view=tree&cluster=2/0") as page:
        page.locator(".exemplars img").first.wait_for()
        playwright.expect(page.locator(".exemplars img").first).to_have_js_property(
            "naturalWidth", 64
        )
    with page_of(chromium, f"{shown}#run=2&view=tree&cluster=1/3") as page:
        page.locator(".stat", has_text="weight").wait_for()
        # Items come in a request of their own.
        page.locator(".items th").first.wait_for()
        assert page.locator(".items th").all_inner_texts() == [
            "Item", "length", "width", "weight", "Distance", "Margin"
        ]  # fmt: skip


def test_a_search_finds_clusters_and_items(chromium: Any, shown: str) -> None:
    with page_of(chromium, f"{shown}#view=search") as page:
        page.locator("#q").fill("number 1234")
        page.keyboard.press("Enter")
        page.locator(
            "[aria-label='Items found']", has_text="1 found; searched 3,000 of 3,000"
        ).wait_for()
        page.get_by_role("link", name="item-1234").click()
        page.locator(".panel h2", has_text="item-1234").wait_for()
        page.get_by_role("link", name="Find similar items").click()
        found = page.locator("[aria-label='Items found']")
        found.get_by_text("The nearest 50 of 3,000 items").wait_for()
        assert found.locator("li").count() == 50
        assert "item-1234" not in found.locator("li a").all_inner_texts()
        assert violations(page) == []
        found.get_by_role("button", name="Show on the map").click()
        drawn(page, shown="40")
        page.get_by_role("region", name="Marked").get_by_text("50 items").wait_for()
        page.go_back()
        # Words take the place of what was likened.
        page.locator("#q").fill("number 1235")
        page.keyboard.press("Enter")
        found.get_by_text("1 found; searched 3,000 of 3,000").wait_for()
        assert "like=" not in page.url
        page.locator("#q").fill("zeppelin")
        page.keyboard.press("Enter")
        meaning = found.get_by_role("link", name="Search by meaning?")
        assert "by=meaning" in meaning.get_attribute("href")


def test_the_page_of_a_run_shows_metrics_curves_and_the_ledger(chromium: Any, shown: str) -> None:
    with page_of(chromium, f"{shown}#view=run") as page:
        page.locator("caption", has_text="Metrics by level").wait_for()
        page.locator(".curve .chosen").first.wait_for()
        page.locator("caption", has_text="Calls 1 to 20 of 50").wait_for()
        page.get_by_text("more than half of the items").wait_for()
        page.locator("dt", has_text="representation").wait_for()


def test_two_runs_are_shown_beside_each_other(
    chromium: Any, text_run: Store, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("runs")
    other = make_run(str(folder / "other"), Made(3_000, SIZES, seed=1))
    with (
        explorer(text_run.uri, other.uri) as address,
        page_of(chromium, f"{address}#view=compare") as page,
    ):
        page.locator("dd", has_text="3,000 of 3,000 and 3,000").wait_for()
        page.get_by_label("Level in the other run").select_option("2")
        page.locator("caption", has_text="40 clusters").wait_for()
        assert violations(page) == []
        page.locator("td li a").first.click()
        page.locator(".panel .facts", has_text="Level 2").wait_for()
        assert "run=1" in page.url


def test_a_file_is_previewed_and_mistakes_are_told_before_a_run_starts(
    chromium: Any, text_run: Store, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("work")
    name = f"{HOSTILE[:20].replace('/', '|')}.csv"
    with (folder / name).open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([["id", "text"], ["1", HOSTILE]])
    with (
        explorer(text_run.uri, "--work", str(folder / "work")) as address,
        page_of(chromium, f"{address}#view=new", refused=400) as page,
    ):
        page.get_by_label("Files").set_input_files(str(next(folder.glob("*.csv"))))
        page.locator("td", has_text="hacked=1").wait_for()
        page.get_by_label("Levels", exact=True).fill("[3, 7]")
        assert violations(page) == []
        page.get_by_role("button", name="Start the run").click()
        page.locator("[role=alert]", has_text="hierarchy.levels must fall strictly").wait_for()
        assert page.evaluate("typeof hacked") == "undefined"


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_is_started_from_the_page_and_looked_at(
    chromium: Any, text_run: Store, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("work")
    lines = [f"{index},a {index % 7} boat of {index % 5} masts" for index in range(200)]
    (folder / "boats.csv").write_text("\n".join(["id,text", *lines]), encoding="utf-8")
    with (
        explorer(text_run.uri, "--work", str(folder / "work")) as address,
        page_of(chromium, f"{address}#view=new") as page,
    ):
        page.get_by_label("Files").set_input_files(str(folder / "boats.csv"))
        page.locator("caption", has_text="First rows of boats.csv").wait_for()
        page.get_by_label("Levels", exact=True).fill("[6, 2]")
        page.locator("summary", has_text="Summaries").click()
        summaries = page.get_by_role("group", name="Summaries")
        summaries.get_by_label("Engine", exact=True).select_option("keyphrases")
        page.get_by_role("button", name="Start the run").click()
        page.locator("h2", has_text="boats.csv: running").wait_for()
        page.locator("h2", has_text="boats.csv: finished").wait_for(timeout=400_000)
        page.get_by_role("link", name="Open the run").click()
        drawn(page, shown="6")


def test_an_unfinished_run_is_followed_until_it_is_finished(
    chromium: Any, unfinished_run: Store, text_run: Store
) -> None:
    with (
        explorer(unfinished_run.uri) as address,
        page_of(chromium, f"{address}#view=run") as page,
    ):
        page.locator("td", has_text="1,200 of 3,000 items").wait_for()
        for name in text_run.list_files(""):
            if name != layout.SUCCESS:
                unfinished_run.write_bytes(name, text_run.read_bytes(name))
        unfinished_run.create(layout.SUCCESS, b"")
        page.locator("caption", has_text="Metrics by level").wait_for()
        page.get_by_role("link", name="Map", exact=True).click()
        drawn(page, shown="40")
        unfinished_run.delete_files(layout.SUCCESS)


def test_two_people_at_once_see_their_own_place_and_each_others_titles(
    chromium: Any, own_run: Callable[[], Store]
) -> None:
    with (
        explorer(own_run().uri) as address,
        page_of(chromium, f"{address}#view=tree&cluster=1/4") as one,
        page_of(chromium, f"{address}#view=map&cluster=1/5") as other,
    ):
        one.get_by_text("Rename or note").click()
        one.get_by_label("Title", exact=True).fill("Ships of all kinds")
        one.get_by_role("button", name="Save").click()
        one.locator(".panel h2", has_text="Ships of all kinds").wait_for()
        one.locator("#t1-4 .title", has_text="Ships of all kinds").wait_for()
        assert "cluster=1/5" in other.url
        other.reload()
        other.locator(".panel .facts", has_text="cluster 1/5").wait_for()
        other.goto(f"{address}#view=tree&cluster=1/4")
        other.locator(".panel h2", has_text="Ships of all kinds").wait_for()


def test_a_hostile_run_runs_no_script(chromium: Any, hostile_run: Store) -> None:
    with (
        explorer(hostile_run.uri) as address,
        page_of(chromium, f"{address}#view=map&cluster=1/2") as page,
    ):
        drawn(page, shown="6")
        for view in ("tree", "icicle", "search", "run"):
            page.goto(f"{address}#view={view}&cluster=1/2&q=onerror")
            page.locator(f".view.{view}").wait_for()
        page.locator(".alarms", has_text="hacked=1").wait_for()
        for cluster in ("1/2", "2/0"):
            page.goto(f"{address}#view=tree&cluster={cluster}")
            page.locator(".panel .items tbody td").first.wait_for()
        page.goto(f"{address}#view=search&q=onerror")
        page.locator("[aria-label='Items found'] li").first.click()
        page.goto(f"{address}#view=tree&item=7")
        page.locator(".panel h2", has_text="\\u{202e}\\u{1b}[31m7").wait_for()
        assert page.evaluate("typeof hacked") == "undefined"
        assert page.locator("img[src='x']").count() == 0


def test_the_policy_lets_no_text_become_an_element(chromium: Any, shown: str) -> None:
    context = chromium.new_context()
    page = context.new_page()
    try:
        page.goto(shown)
        page.locator(".view.map").wait_for()
        with pytest.raises(playwright.Error, match="TrustedHTML"):
            page.evaluate("document.body.innerHTML = '<b>x</b>'")
        with pytest.raises(playwright.Error, match="TrustedScript"):
            page.evaluate("setTimeout('1', 0)")
    finally:
        context.close()


@pytest.mark.parametrize("place", ["map&cluster=2/3", "tree&cluster=1/4", "icicle&cluster=2/1",
                                   "search&q=number+12", "run"])  # fmt: skip
def test_axe_finds_nothing_serious(place: str, chromium: Any, shown: str) -> None:
    for scheme in SCHEMES:
        with page_of(chromium, f"{shown}#view={place}", color_scheme=scheme) as page:
            page.locator(".items caption, .page caption").first.wait_for() if (
                "cluster" in place or place == "run"
            ) else page.locator(".list li").first.wait_for()
            page.get_by_text("Rename or note").click() if "cluster" in place else None
            assert violations(page) == []


def test_nothing_is_cut_off_on_a_narrow_screen(chromium: Any, shown: str) -> None:
    with page_of(chromium, shown, viewport=NARROW) as page:
        for place in ("map&cluster=2/3", "tree", "icicle", "search&q=number+12", "run"):
            page.goto(f"{shown}#view={place}")
            page.locator(f".view.{place.partition('&')[0]}").wait_for()
            page.wait_for_timeout(300)
            assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"], place


@pytest.mark.slow
def test_a_million_items_open_and_answer_at_once(
    chromium: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = make_run(
        str(tmp_path_factory.mktemp("runs") / "million"), Made(1_000_000, (2_000, 100, 10))
    )
    assert sum(file.rows for file in published_files(store)["cluster_items"]) == 1_000_000
    with explorer(store.uri) as address, page_of(chromium, address) as page:
        drawn(page, density="yes")
        took = page.evaluate(
            """async () => {
                const asked = ['cluster?level=3&id=1', 'items?level=3&id=1&offset=50000',
                    'points?level=2&id=7', 'search/items?q=number+31', 'tree'];
                const took = {};
                for (const each of asked) {
                    const start = performance.now();
                    await (await fetch(`/api/runs/0/${each}`)).json();
                    took[each] = performance.now() - start;
                }
                return took;
            }"""
        )
        print(json.dumps(took))
        # A machine under other work is slower; benchmarks/explorer.py has the figures.
        assert max(took.values()) < 5_000
