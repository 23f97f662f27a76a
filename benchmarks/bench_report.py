"""Measure how long a report of many rollouts takes to make, and to open in a headless Chromium.

    python benchmarks/bench_report.py --loads 7

Opening is timed from the start of the navigation until the list and the first rollout are in the document (the page's
mark "ready"), and until the next frame. Each load uses a new browser, so only the system caches anything.
"""

from __future__ import annotations

import platform
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from synthetic_run import synthetic_run

from common import InputError, machine, require_at_least, run_script
from report import Args as ReportArgs
from report import main as make_report

PAINTED = "return new Promise(done => requestAnimationFrame(() => setTimeout(() => done(performance.now()))))"


@dataclass
class Args:
    rollouts: int = 2000  # number of rollouts of about 60 to 110 tokens, two groups of eight per step
    loads: int = 7  # how often the page is opened
    config: str = ""  # YAML file with any of these; flags win over it


def open_page(page: Path) -> tuple[float, float, str]:
    """Open the page; return the seconds until it is ready and until the next frame is done, and the browser version."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome")
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    try:
        driver.set_window_size(1400, 900)
        driver.get(page.as_uri())
        frame = driver.execute_script(PAINTED)
        ready = driver.execute_script("return performance.getEntriesByName('ready')[0].startTime")
        return ready / 1e3, frame / 1e3, driver.capabilities["browserVersion"]
    finally:
        driver.quit()


def main(args: Args) -> None:
    require_at_least(1, args, "rollouts", "loads")
    if not shutil.which("chromedriver"):
        raise InputError("chromedriver and chromium are not installed (Debian: chromium-driver)")
    with tempfile.TemporaryDirectory() as folder:
        run_folder = synthetic_run(Path(folder) / "run", args.rollouts)
        start = time.perf_counter()
        make_report(ReportArgs(str(run_folder), max_rollouts=args.rollouts))
        making = time.perf_counter() - start
        loads = [open_page(run_folder / "report.html") for _ in range(args.loads)]
        size = (run_folder / "report.html").stat().st_size / 2**20
    host = machine()
    print(f"{host['cpu']}, {host['cores']} cores, {platform.system()} {platform.release()}; "
          f"python {host['versions']['python']}, Chromium {loads[0][2]}")  # fmt: skip
    print(f"{args.rollouts} rollouts, {size:.1f} MiB: made in {making:.1f} s")
    for name, at in (("ready", 0), ("next frame done", 1)):
        seconds = [load[at] for load in loads]
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        print(f"{name}: median of {args.loads} loads {median(seconds):.2f} s ({spread})")


if __name__ == "__main__":
    run_script(main, Args, __doc__)
