"""The page of the API in a real browser: Authorize takes the key, and a call made from the page is answered.

Whatever the page loads must come from the coordinator itself, and the browser must have nothing to complain about.
"""

import json
import sys
import tempfile

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions as until
from selenium.webdriver.support.ui import WebDriverWait

from coordinator import Coordinator

SECONDS = 30
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--window-size=1280,1600",
]


def browser(profile):
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in [*FLAGS, f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))


def requested(page):
    """The addresses that the page has asked for."""
    for entry in page.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            yield message["params"]["request"]["url"]


def try_out(page, key):
    wait = WebDriverWait(page, SECONDS)

    def click(selector):
        found = wait.until(until.presence_of_element_located((By.CSS_SELECTOR, selector)))
        page.execute_script("arguments[0].scrollIntoView({block: 'center'})", found)
        wait.until(until.element_to_be_clickable((By.CSS_SELECTOR, selector))).click()

    click(".btn.authorize")
    wait.until(until.element_to_be_clickable((By.CSS_SELECTOR, ".auth-container input"))).send_keys(key)
    click(".auth-btn-wrapper .authorize")
    click(".btn-done")
    click("[id$='-get_me'] .opblock-summary-control")
    click("[id$='-get_me'] .execute")
    answer = (By.CSS_SELECTOR, "[id$='-get_me'] .live-responses-table tbody .response-col_status")
    status = wait.until(until.visibility_of_element_located(answer)).text
    body = page.find_element(By.CSS_SELECTOR, "[id$='-get_me'] .live-responses-table .highlight-code").text
    return status, body


def main():
    with Coordinator() as coordinator, tempfile.TemporaryDirectory() as profile:
        page = browser(profile)
        try:
            page.get(coordinator.url + "/")
            WebDriverWait(page, SECONDS).until(until.presence_of_element_located((By.CSS_SELECTOR, ".opblock")))
            assert "/docs" in page.current_url, page.current_url
            status, body = try_out(page, coordinator.key)
            if len(sys.argv) > 1:
                page.save_screenshot(sys.argv[1])
            assert status.startswith("200"), status
            assert '"admin"' in body, body
            # The browser's first empty tab loads parts of the browser itself.
            own = (coordinator.url, "data:", "blob:", "chrome:")
            foreign = [url for url in requested(page) if not url.startswith(own)]
            assert not foreign, f"the page asks elsewhere: {foreign}"
            complaints = [entry["message"] for entry in page.get_log("browser") if entry["level"] == "SEVERE"]
            assert not complaints, f"the browser complains: {complaints}"
        finally:
            page.quit()
    print("the page of the API works: a key was taken, a call was answered")


if __name__ == "__main__":
    main()
