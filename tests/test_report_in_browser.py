"""report.html in headless Chromium: it draws, it turns, and nothing from a file is run."""

import io
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from mfcdm.report import write_report
from tests.report_pages import HOSTILE, ordinary_records, shapes, training, write_run, write_samples

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
if CHROMIUM is None or DRIVER is None:
    pytest.skip("chromium or chromedriver is not installed", allow_module_level=True)

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--enable-unsafe-swiftshader",  # WebGL without a GPU
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,900",
)
PATIENCE = 60  # seconds, of a machine that does much else
EYE = "return document.getElementById(arguments[0])._fullLayout.scene._scene.getCamera().eye"
# Both clouds are seen from one side, and were half a second ago: the software renderer takes its time.
TOGETHER = """
const eyes = () => ["generated", "nearest"].map((id) => {
  const { x, y, z } = document.getElementById(id)._fullLayout.scene._scene.getCamera().eye;
  return [x, y, z].map((value) => value.toFixed(3)).join();
});
const before = eyes();
return new Promise((done) => setTimeout(() => done(new Set([...before, ...eyes()]).size === 1), 500));
"""
DRAWN = "return document.querySelectorAll('.chart .main-svg').length > 0"
TURNABLE = "return ['generated', 'nearest'].every((id) => document.getElementById(id)?._fullLayout?.scene?._scene)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER)) as browser:
        browser.set_script_timeout(PATIENCE)
        yield browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a run whose files try to run scripts, with three samples."""
    records = [{**record, HOSTILE: 1.0} for record in ordinary_records(60)]
    config = {"name": HOSTILE, "trainer": {"max_steps": 9, "note": HOSTILE}, "seed": 3}
    run = write_run(tmp_path_factory.mktemp("run") / "run", records, config, environment={"git": HOSTILE})
    write_samples(run, shapes(3, 1500, seed=1), labels=np.arange(3))
    return write_report(run, training(5, 1500), missing=HOSTILE)


@pytest.fixture
def opened(browser, page):
    """The page, freshly loaded, once its curves are drawn; no error may be logged in the end."""
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get_log("browser")
    browser.get("about:blank")
    browser.get(page.as_uri())
    wait(browser, DRAWN)
    yield browser
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []


def wait(browser, condition, *arguments):
    WebDriverWait(browser, PATIENCE).until(lambda _: browser.execute_script(condition, *arguments))


def choose_tab(browser, name):
    browser.find_element(By.ID, f"tab-{name}").click()
    if name == "samples":
        wait(browser, TURNABLE)
        time.sleep(0.5)  # its first frames


def visible_panels(browser):
    return [
        panel.get_attribute("id") for panel in browser.find_elements(By.CSS_SELECTOR, "[role=tabpanel]:not([hidden])")
    ]


def picture(element):
    return np.asarray(Image.open(io.BytesIO(element.screenshot_as_png)).convert("RGB"))


def test_curves_are_drawn_without_the_network_and_without_foreign_scripts(opened):
    assert len(opened.find_elements(By.CSS_SELECTOR, ".chart .main-svg")) > 0
    assert opened.title.startswith(HOSTILE[:20])  # its text, and not what it tries to set
    assert opened.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert opened.find_elements(By.CSS_SELECTOR, "body img") == []
    titles = [caption.text for caption in opened.find_elements(By.CSS_SELECTOR, "#charts figcaption > span")]
    assert titles[:3] == ["Loss", "Loss by level of the subdivision", "Loss by noise, log-SNR in nats"]
    first = picture(opened.find_element(By.CSS_SELECTOR, ".chart"))
    assert len(np.unique(first.reshape(-1, 3), axis=0)) > 50  # a line, its axis and its ground


def test_tabs_switch_by_mouse_and_keys_and_are_remembered(opened):
    assert visible_panels(opened) == ["curves"]
    choose_tab(opened, "configuration")
    assert visible_panels(opened) == ["configuration"]
    assert opened.current_url.endswith("#configuration")
    opened.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert visible_panels(opened) == ["scores"]
    assert opened.switch_to.active_element.get_attribute("id") == "tab-scores"
    opened.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert visible_panels(opened) == ["curves"]
    selected = opened.find_elements(By.CSS_SELECTOR, "[role=tab][aria-selected=true]")
    assert [tab.get_attribute("id") for tab in selected] == ["tab-curves"]
    opened.refresh()
    wait(opened, DRAWN)
    assert visible_panels(opened) == ["curves"]


def test_a_cloud_turns_with_the_mouse_and_its_neighbour_with_it(opened):
    choose_tab(opened, "samples")
    cloud = opened.find_element(By.ID, "generated")
    before, seen = opened.execute_script(EYE, "generated"), picture(cloud)
    assert (seen != seen[3, 3]).any(axis=2).sum() > 1000  # 1,500 points on the ground of a corner
    hand = ActionChains(opened).move_to_element(cloud).click_and_hold()
    hand.move_by_offset(90, 20).move_by_offset(60, 10).release().perform()
    wait(opened, TOGETHER)
    after = opened.execute_script(EYE, "generated")
    turned = np.array([[eye[axis] for axis in "xyz"] for eye in (before, after)])
    assert np.abs(turned[1] - turned[0]).max() > 0.1
    assert np.linalg.norm(turned, axis=1) == pytest.approx([np.linalg.norm(turned[0])] * 2, rel=1e-3)  # a rotation
    beside = opened.execute_script(EYE, "nearest")
    assert [beside[axis] for axis in "xyz"] == pytest.approx(turned[1].tolist(), abs=1e-3)
    assert (picture(cloud) != seen).any(axis=2).sum() > 1000
    opened.find_element(By.ID, "reset").click()
    wait(opened, TOGETHER)
    assert opened.execute_script(EYE, "generated") == pytest.approx(before, abs=1e-3)
    opened.find_element(By.ID, "left").click()
    wait(opened, TOGETHER)
    assert opened.execute_script(EYE, "nearest") != pytest.approx(before, abs=1e-2)


def test_another_pair_can_be_chosen_and_its_distances_are_shown(opened):
    choose_tab(opened, "samples")
    buttons = opened.find_elements(By.CSS_SELECTOR, "#gallery button")
    assert len(buttons) == 3
    assert all(len(np.unique(picture(button).reshape(-1, 3), axis=0)) > 5 for button in buttons)
    x = "return document.getElementById('generated').data[0].x[0]"
    before = opened.execute_script(x)
    opened.execute_script("arguments[0].click()", buttons[2])
    wait(opened, f"return (() => {{ {x} }})() !== arguments[0]", before)
    assert opened.find_element(By.ID, "shown").text == "cloud 2: class 2, 1,500 points"
    match = opened.execute_script("return JSON.parse(document.getElementById('data').textContent).pairs[2].match")
    values = [value.text for value in opened.find_elements(By.CSS_SELECTOR, "#distances dd")]
    assert [float(value) for value in values[:3]] == pytest.approx(
        [match["distance"], match["neighbour"], match["floor"]], rel=5e-3
    )
    assert values[3] == str(match["index"])


def test_the_controls_of_the_curves_redraw_them(opened):
    plot = "const plot = document.querySelector('.chart'); return "
    assert opened.execute_script(plot + "[plot.data.length, plot.layout.xaxis.title.text]") == [1, "step"]
    slider = opened.find_element(By.ID, "smoothing")
    slider.send_keys(*[Keys.ARROW_RIGHT] * 20)
    wait(opened, plot + "plot.data.length === 2")
    assert opened.execute_script(plot + "plot.data[0].y.length") == 60
    rough, smooth = (opened.execute_script(plot + f"plot.data[{at}].y") for at in (0, 1))
    kept = float(slider.get_attribute("value"))
    assert kept == pytest.approx(0.4)
    for at in (0, 3, 59):
        weights = kept ** np.arange(at, -1, -1)
        assert smooth[at] == pytest.approx(np.average(rough[: at + 1], weights=weights))
    opened.find_element(By.CSS_SELECTOR, "#axis [value=minutes]").click()
    wait(opened, plot + "plot.layout.xaxis.title.text === 'minutes'")
    minutes = [at / 6 for at in range(1, 61)]  # 10 s a record
    assert opened.execute_script(plot + "plot.data[0].x") == pytest.approx(minutes)
    button = opened.find_element(By.CSS_SELECTOR, "figcaption button")
    assert button.get_attribute("aria-pressed") == "true"  # the loss falls from 1.6 to below 0.05
    button.click()
    wait(opened, plot + "plot.layout.yaxis.type === 'linear'")
    assert button.get_attribute("aria-pressed") == "false"


def test_the_search_leaves_what_it_finds(opened):
    choose_tab(opened, "configuration")
    opened.find_element(By.ID, "search").send_keys("max_st")
    rows = [row.text for row in opened.find_elements(By.CSS_SELECTOR, "details.group tr") if row.is_displayed()]
    assert rows == ["trainer.max_steps 9"]


def test_the_browser_is_forbidden_what_the_page_does_not_need(browser, page):
    """What an escape that failed would try: a script in the page, and a connection."""
    browser.get(page.as_uri())
    wait(browser, DRAWN)
    made = "const made = document.createElement('script'); made.textContent = 'window.taken = 1';"
    browser.execute_script(f"{made} document.body.append(made)")
    assert browser.execute_script("return window.taken") is None
    sent = "return fetch('http://127.0.0.1:9/').then(() => 'sent', (error) => error.message)"
    assert "Failed to fetch" in browser.execute_script(sent)
    refused = [line["message"] for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert len(refused) >= 2
    assert all("Content Security Policy" in message for message in refused)


@pytest.mark.parametrize("name", ["curves", "samples", "configuration", "scores"])
def test_a_phone_has_nothing_to_scroll_sideways(opened, name):
    phone = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    choose_tab(opened, name)
    wait(opened, "return innerWidth === 360 && document.documentElement.scrollWidth <= 360")


def test_the_page_follows_the_light_and_the_dark_scheme(opened):
    grounds = []
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        time.sleep(0.3)
        grounds.append(picture(opened.find_element(By.TAG_NAME, "body"))[5, 5].mean())
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert grounds[0] > 200 > 80 > grounds[1]
