"""The page of report.py in a headless Chromium: what clicks do, and that hostile text does nothing."""

import contextlib
import shutil
from pathlib import Path

import pytest
from synthetic_run import HOSTILE, LOG, ROW, hostile_run, synthetic_run, write_run

from report import Args, main

pytest.importorskip("selenium", reason="selenium is not installed: the page is not opened")

from selenium import webdriver
from selenium.common.exceptions import NoAlertPresentException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1400,900")


@pytest.fixture(scope="session")
def chromium():
    driver = shutil.which("chromedriver")
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    if not driver or not binary:
        pytest.skip("chromium and chromedriver are not installed: the page is not opened")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in FLAGS:
        options.add_argument(flag)
    with contextlib.closing(Browser(options, Service(driver))) as browser:
        yield browser


class Browser:
    """What the tests ask of a page."""

    def __init__(self, options, service) -> None:
        self.driver = webdriver.Chrome(options, service)

    def open(self, page: Path) -> None:
        self.driver.get(page.as_uri())
        assert self.js("return performance.getEntriesByName('ready').length") == 1

    def js(self, code: str, *args):
        return self.driver.execute_script(code, *args)

    def find(self, selector: str):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def click(self, selector: str) -> None:
        self.find(selector).click()

    def text(self, selector: str) -> str:
        return self.js("return document.querySelector(arguments[0]).textContent", selector)

    def texts(self, selector: str) -> list[str]:
        return self.js("return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector)

    def press(self, key: str) -> None:
        ActionChains(self.driver).send_keys(key).perform()

    def choose(self, selector: str, value: str) -> None:
        Select(self.find(selector)).select_by_value(value)

    def rows(self, column: int) -> list[str]:
        """A column of the rows in the document."""
        return self.texts(f"#rows .row > :nth-child({column})")

    def close(self) -> None:
        self.driver.quit()


@pytest.fixture(scope="session")
def big_page(tmp_path_factory) -> Path:
    """Of 480 rollouts in 30 steps; benchmarks/bench_report.py opens one of 2,000."""
    folder = synthetic_run(tmp_path_factory.mktemp("report") / "synthetic", 480, num_tasks=20)
    main(Args(str(folder)))
    return folder / "report.html"


@pytest.fixture
def big(chromium, big_page) -> Browser:
    chromium.open(big_page)
    return chromium


def page_of(chromium, folder) -> Browser:
    main(Args(str(folder)))
    chromium.open(folder / "report.html")
    return chromium


def test_the_list_holds_what_is_in_sight(big):
    assert big.text("#count") == "480 of 480" and 10 < len(big.rows(1)) < 80
    assert big.text("#which") == "pocket/train/2, step 1"
    big.js("document.querySelector('#list').scrollTop = 1e9")
    big.js("return new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert big.rows(1)[-1] == "30"
    assert big.js("return performance.getEntriesByType('resource').length") == 0


def test_filters(big):
    big.choose("#filter-status", "1")
    assert set(big.rows(3)) == {"\u2713 pass"} and big.text("#verdict") == "\u2713 pass"
    passing = int(big.text("#count").split()[0].replace(",", ""))
    assert 0 < passing < 480 and big.find("#filter-status").text.count(f"pass ({passing})") == 1
    big.choose("#filter-status", "")
    big.choose("#filter-step", "7")
    assert big.text("#count") == "16 of 480" and set(big.rows(1)) == {"7"}
    task = big.rows(2)[-1]
    big.find("#filter-task").send_keys(task.upper())
    assert big.text("#count") == "8 of 480" and set(big.rows(2)) == {task}
    big.find("#filter-task").send_keys("no such task")
    assert big.text("#count") == "0 of 480" and big.rows(1) == []


def test_sorting(big):
    def numbers(column):
        return [float(text.replace("\u2212", "-")) for text in big.rows(column)]

    big.click("[data-sort=advantage]")
    assert numbers(5) == sorted(numbers(5), reverse=True) and numbers(5)[0] > 2.5
    assert big.find("[data-sort=advantage]").get_attribute("aria-pressed") == "true"
    big.click("[data-sort=advantage]")
    assert numbers(5) == sorted(numbers(5)) and numbers(5)[0] < -2.5
    for name, column in (("reward", 4), ("length", 6), ("ratio", 7)):
        big.click(f"[data-sort={name}]")
        assert numbers(column) == sorted(numbers(column), reverse=True)


def test_tokens_are_shaded_by_log_probability_or_advantage(big):
    tokens = big.texts("#completion .t")
    assert "".join(tokens[:-1]) == big.js("document.querySelector('[data-view=plain]').click();"
                                          "return document.querySelector('#completion').textContent")  # fmt: skip
    assert big.texts("#completion .t") == []
    big.click("[data-view=logprob]")
    seen = big.js("""return [...document.querySelectorAll("#completion .t")].map(e => [e.className, e.title])""")
    for shade, title in seen:
        probability = float(title.split("probability ")[1].split(" ")[0].replace("\u2212", "-"))
        level = sum(probability < bound for bound in (0.9, 0.5, 0.2, 0.05, 0.01))
        assert f"s{level}" in shade.split() or min(abs(probability - b) for b in (0.9, 0.5, 0.2, 0.05, 0.01)) < 2e-3
    assert len({shade for shade, _ in seen}) >= 4 and "id " in seen[0][1] and "advantage \u22120.43" in seen[0][1]
    big.click("[data-view=advantage]")
    sign = big.text("#facts").split("advantage")[1][0]
    shades = big.js("return [...document.querySelectorAll('#completion .t')].map(e => e.className)")
    assert all((" p" if sign == "+" else " n") in shade for shade in shades)
    assert big.js("return getComputedStyle(document.querySelector('#completion .t')).textDecorationStyle") == "wavy"
    big.press("1")
    assert big.find("[data-view=logprob]").get_attribute("aria-pressed") == "true"


def test_along_a_task_and_what_changed(big):
    assert big.text("#place") == "1 of 24 of this task" and not big.find("#previous").is_enabled()
    task = big.text("#which").split(",")[0]
    for _ in range(8):  # a group is 8
        big.click("#next")
    assert big.text("#place") == "9 of 24 of this task" and big.text("#which").startswith(task + ", step ")
    assert big.text("#which") != f"{task}, step 1"
    big.click("[data-view=diff]")
    assert big.find("#against").is_displayed() and big.js("return document.querySelector('#against').value") == "0"
    now = big.js("return [...document.querySelector('#completion').childNodes]"
                 ".filter(e => e.tagName !== 'DEL').map(e => e.textContent).join('')")  # fmt: skip
    then = big.js("return [...document.querySelector('#completion').childNodes]"
                  ".filter(e => e.tagName !== 'INS').map(e => e.textContent).join('')")  # fmt: skip
    assert big.texts("#completion ins, #completion del") and now != then
    big.press("3")
    assert big.text("#completion") == now
    for _ in range(8):
        big.press("p")
    assert big.text("#place") == "1 of 24 of this task" and big.text("#completion") == then


def test_changes_are_words(chromium, tmp_path):
    texts = ["def f(a, b):\n    return a + b\n", "def f(a, b):\n    return a - b  # less\n"]
    page = page_of(chromium, write_run(tmp_path / "run", LOG, [ROW | {"completion": c} for c in texts]))
    page.press("n4")
    parts = page.js(
        "return [...document.querySelector('#completion').childNodes].map(e => [e.nodeName, e.textContent])"
    )
    assert parts == [["#text", "def f(a, b):\n    return a "], ["DEL", "+"], ["INS", "-"], ["#text", " b"],
                     ["INS", "  # less"], ["#text", "\n"]]  # fmt: skip


def test_keys_move_along_the_list(big):
    def place():
        return int(big.js("return document.querySelector('[aria-selected=true]').getAttribute('aria-posinset')"))

    assert place() == 1
    big.press("jjjk")
    assert place() == 3
    big.press(Keys.ARROW_DOWN)
    assert place() == 4
    big.js("document.querySelector('#list').focus()")
    big.press(Keys.END)
    assert place() == 480 and big.text("#which").endswith("step 30")
    big.press("/")
    big.press("jj")
    assert big.js("return document.querySelector('#filter-task').value") == "jj"


def test_curves_show_the_value_at_a_step_and_lead_to_it(big):
    names = big.js("return [...document.querySelectorAll('#panels .panel')].map(e => e.dataset.figure)")
    assert names[:3] == ["base_reward", "reward", "gen_len"] and names[-1] == "grad_norm"
    svg = big.find("[data-figure=base_reward] svg")
    ActionChains(big.driver).move_to_element(svg).perform()
    said = big.text("[data-figure=gen_len] .readout")
    step = int(said.split()[1].rstrip(":"))
    short = f"{100 - 40 * step / 30:.1f}".removesuffix(".0")
    assert 10 < step < 20 and said == f"step {step}: {short}"
    ActionChains(big.driver).move_to_element(svg).click().perform()
    assert big.text("#count") == "16 of 480" and set(big.rows(1)) == {str(step)}
    big.click("#more summary")
    # the browser tells that <details> opened a moment later
    WebDriverWait(big.driver, 10).until(lambda _: big.texts("#more-panels .title"))
    assert big.texts("#more-panels .title") == ["tied groups"]


def test_token_advantages_and_what_is_not_recorded(chromium, pocket, tmp_path):
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(pocket)("return 1", add_special_tokens=False).input_ids
    row = ROW | {"token_ids": ids, "token_advantages": [(-1.0) ** n for n in range(len(ids))]}
    one = page_of(chromium, write_run(tmp_path / "one", LOG, [row], "ppo", sft_model=pocket))
    one.click("[data-view=advantage]")
    shades = one.js("return [...document.querySelectorAll('#completion .t')].map(e => e.classList[1])")
    assert shades == ["p3", "n3", "p3", "n3"][: len(ids)]
    older = page_of(chromium, write_run(tmp_path / "two", LOG, [ROW]))
    assert older.text("#completion") == "return 1" and "text alone" in older.text("#legend")
    assert not older.find("#prompt-box").is_displayed() and older.rows(7) == ["\u2013"]
    older.click("[data-view=diff]")
    assert older.text("#legend") == "There is no other completion of this task."
    without = page_of(chromium, write_run(tmp_path / "three", [{"step": 1, "loss": 1.0}], None, "sft"))
    assert not without.find("#browser").is_displayed() and without.texts("#panels .title") == ["loss"]


def test_hostile_text_is_text(chromium, tmp_path):
    page = page_of(chromium, hostile_run(tmp_path / "run"))
    unseen = "\u2028\u202e\x1b[31m\x00\ud800"
    shown = HOSTILE.replace(unseen, "[U+2028][U+202E][ESC][31m[NUL][U+D800]")
    for selector in ("#name", "#reason"):
        assert page.text(selector) == shown, selector
    for selector in ("#prompt", "#completion"):  # there the names stand in frames
        assert page.text(selector) == HOSTILE.replace(unseen, "U+2028U+202EESC[31mNULU+D800"), selector
    assert page.text("#which") == f"{shown}, step 1" and page.text("#verdict") == f"! {shown}"
    page.js("document.querySelector('#configuration').open = true")
    assert shown in page.text("#settings") and shown in page.text("#changed") and shown in page.text("#facts")
    page.js("document.querySelector('#more').open = true")
    page.click("[data-view=diff]")
    count = "return ['script', 'img', '[onerror]', 'iframe', 'object'].map(s => document.querySelectorAll(s).length)"
    assert page.js(count) == [2, 0, 0, 0, 0]
    assert page.js("return document.querySelectorAll('#completion .unseen').length") == 5
    with pytest.raises(NoAlertPresentException):
        _ = page.driver.switch_to.alert
    assert page.js("return performance.getEntriesByType('resource').length") == 0


def test_the_policy_lets_nothing_else_run(chromium, tmp_path):
    page = page_of(chromium, write_run(tmp_path / "run", LOG, [ROW]))
    page.js("""
        window.blocked = [];
        document.addEventListener("securitypolicyviolation", (event) => blocked.push(event.effectiveDirective));
        const script = document.createElement("script");
        script.textContent = "window.ran = 1";
        document.body.append(script);
        const box = document.createElement("div");
        box.innerHTML = "<b onclick='window.ran = 2' style='color: red'>x</b><img src='http://127.0.0.1:9/x.png'>";
        document.body.append(box);
        box.firstChild.click();
        fetch("http://127.0.0.1:9/").catch(() => 0);
    """)
    page.js("return new Promise(done => setTimeout(done, 100))")
    assert page.js("return window.ran") is None
    assert {"script-src-elem", "script-src-attr", "style-src-attr", "img-src", "connect-src"} <= set(
        page.js("return window.blocked")
    )


def test_a_huge_line_and_huge_changes_are_shown(chromium, tmp_path):
    rows = [ROW | {"completion": letter * 500_000 + "\n" + " x y" * 20_000, "step": n} for n, letter in enumerate("ab")]
    page = page_of(chromium, write_run(tmp_path / "run", LOG, rows))
    page.press("n4")
    assert [len(text) for text in page.texts("#completion del, #completion ins")] == [500_000, 500_000]
    many = [" ".join(f"{name}{n}" for n in range(3000)) for name in "xy"]  # words that are too many to be aligned
    rows = [ROW | {"completion": f"same\n{text}\n", "step": n} for n, text in enumerate(many)]
    page = page_of(chromium, write_run(tmp_path / "many", LOG, rows))
    page.press("n4")
    changed = page.js("return [...document.querySelector('#completion').childNodes].map(e => e.textContent)")
    assert changed == ["same\n", many[0] + "\n", many[1] + "\n"]
    width = page.js("const e = document.documentElement; return [e.scrollWidth, e.clientWidth]")
    assert width[0] <= width[1]
