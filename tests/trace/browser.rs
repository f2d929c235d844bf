//! The page, in a real browser.
use std::process::Command;

use libtest_mimic::{Completion, Trial};

use crate::recorded::{trace, with_waits};

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::ignorable_test("browser::the_page_is_drawn", || {
        Ok(the_page_is_drawn().map_err(|e| e.to_string())?)
    })]
}

/// On a laptop and on a phone: all is drawn, nothing fails, and the page is no wider than
/// the screen.
fn the_page_is_drawn() -> Result<Completion, Box<dyn std::error::Error>> {
    let Ok(version) = Command::new("chromium").arg("--version").output() else {
        return Ok(Completion::ignored_with("chromium is not installed"));
    };
    if !version.status.success() {
        return Ok(Completion::ignored_with("chromium does not run"));
    }
    let recorded = with_waits();
    let page = recorded.beside("page.html");
    trace(
        &format!("report --html {}", page.display()),
        &recorded.path(),
    )
    .expect_status(0);
    let text = std::fs::read_to_string(&page)?;
    // What would tell of an error, and of a page that is too wide.
    let watch = "<script>window.onerror = (e) => { document.documentElement.dataset.failed = e; };\
        window.addEventListener('load', () => { document.documentElement.dataset.width = \
        `${document.documentElement.scrollWidth - window.innerWidth}`; });</script><style>";
    let text = text.replacen("<style>", watch, 1);
    std::fs::write(&page, text)?;
    for size in ["1280,800", "390,844"] {
        let profile = tempfile::tempdir()?;
        let shown = Command::new("timeout")
            .args([
                "120",
                "chromium",
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--dump-dom",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(format!("--window-size={size}"))
            .arg(format!("file://{}", page.display()))
            .output()?;
        let dom = String::from_utf8_lossy(&shown.stdout);
        let html = dom
            .lines()
            .find(|line| line.starts_with("<html"))
            .unwrap_or_default();
        let threads = recorded.trace.threads.len();
        assert!(
            html.contains(&format!("data-drawn=\"{threads} ")),
            "{size}: {html}"
        );
        assert!(!html.contains("data-failed"), "{size}: {html}");
        let wider = html
            .split("data-width=\"")
            .nth(1)
            .and_then(|rest| rest.split('"').next());
        let wider: i32 = wider.ok_or("no width")?.parse()?;
        assert!(wider <= 0, "{size}: {wider} pixels wider than the screen");
        let rows = dom.matches("class=\"go\"").count();
        let waits = (0..2)
            .flat_map(|vcpu| recorded.exits(vcpu))
            .filter(|exit| exit.wait.is_some());
        assert_eq!(rows, waits.count().min(500), "rows of waits");
    }
    Ok(Completion::Completed)
}
