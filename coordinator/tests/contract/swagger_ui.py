"""The page /docs in a real browser: it shows the document without a complaint, talks to nobody but its own host, and
with a key given to *Authorize* a call can be tried out.
"""

import json
import os
import pathlib
import shutil
import tempfile
import urllib.parse

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from coordinator import Coordinator

PATIENCE_SECONDS = 60
# `--no-sandbox`: tests may run as root. The others keep the browser from calls of its own.
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --disable-dev-shm-usage --no-first-run --disable-sync
--disable-background-networking --disable-component-update --disable-default-apps --no-proxy-server
--window-size=1400,2000""".split()
SECTIONS = """Key, Robot, Robot group, Process, Process version, Job, Queue, Task, Trigger, Resource, Storage, Log, Account,
Agent, System, Webhook, Alert""".replace("\n", " ").split(", ")


def browser(profile):
    missing = [name for name in ("chromium", "chromedriver") if not shutil.which(name)]
    assert not missing, f"{missing} are missing: apt-get install chromium chromium-driver"
    options = Options()
    options.binary_location = shutil.which("chromium")
    for flag in [*FLAGS, f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))


class Page:
    """Waits for what it looks for, with a bound."""

    def __init__(self, driver):
        self.driver = driver

    def find(self, selector, within=None):
        place = within or self.driver
        look = lambda _: next((found for found in place.find_elements(By.CSS_SELECTOR, selector) if found.is_displayed()), None)
        return WebDriverWait(self.driver, PATIENCE_SECONDS).until(look, f"there is no {selector} on the page")

    def press(self, selector, within=None):
        element = self.find(selector, within)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()


def authorize(page, key):
    page.press(".auth-wrapper .authorize")
    page.find(".auth-container input").send_keys(key)
    page.press(".auth-btn-wrapper button.authorize")
    page.press(".auth-btn-wrapper button.btn-done")


def try_get_me(page):
    block = page.find("#operations-Account-get_me")
    page.press(".opblock-summary-control", block)
    page.press("button.execute", block)
    status = page.find(".live-responses-table tbody .response-col_status", block).text.split()[0]
    body = page.find(".live-responses-table .highlight-code code", block).text
    return status, json.loads(body)


def complaints(driver):
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def requests_of(driver):
    """Address and status of everything that the page asked for."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    answers = [m["params"]["response"] for m in messages if m["method"] == "Network.responseReceived"]
    return sent, [(answer["url"], answer["status"]) for answer in answers]


def look(driver, coordinator):
    page = Page(driver)
    driver.get(f"{coordinator.url}/")
    assert driver.current_url == f"{coordinator.url}/docs/", f"/ leads to {driver.current_url}"
    page.find("#operations-Account-get_me")
    shown = [one.get_attribute("data-tag") for one in driver.find_elements(By.CSS_SELECTOR, "h3.opblock-tag")]
    assert shown == SECTIONS, f"the sections are {shown}"
    assert "Drover" in page.find(".info .title").text
    authorize(page, coordinator.key)
    status, body = try_get_me(page)
    assert status == "200", f"the call was answered with {status}: {body}"
    assert body["name"] == "admin" and body["kind"] == "user", body
    if picture := os.environ.get("SCREENSHOT"):
        driver.save_screenshot(picture)
    sent, answers = requests_of(driver)
    own = urllib.parse.urlsplit(coordinator.url).netloc
    # Before it is told where to go, the browser shows a page of its own, made of parts of itself.
    asked = [url for url in sent if not url.startswith(("chrome:", "data:", "blob:"))]
    strangers = [url for url in asked if urllib.parse.urlsplit(url).netloc != own]
    assert not strangers, f"the page has asked others: {strangers}"
    bad = [answer for answer in answers if answer[1] >= 400]
    assert not bad, f"the page has asked for what is not there: {bad}"
    assert not complaints(driver), complaints(driver)


def main():
    with Coordinator() as coordinator, tempfile.TemporaryDirectory(prefix="drover-browser.") as profile:
        driver = browser(pathlib.Path(profile))
        try:
            look(driver, coordinator)
        finally:
            driver.quit()
    print("/docs works in a browser.")


if __name__ == "__main__":
    main()
