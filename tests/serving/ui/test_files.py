"""The page's files: their headers, what is not one of them, and the page where it is not wanted."""

import pytest

from serving import ui_files


def test_the_page_is_relative_to_where_it_stands(server):
    """/ui leads to /ui/ by a relative address, so that it works below a prefix; the page's own addresses are relative, too."""
    answer = server.get("/ui")
    page = server.get("/ui/").text

    assert (answer.status_code, answer.headers["location"]) == (307, "ui/")
    assert 'src="/' not in page
    assert 'href="/' not in page
    assert "http" not in page


@pytest.mark.parametrize("name", ["", "app.js", "style.css", "icon.svg"])
def test_files_can_load_nothing_from_elsewhere(server, name):
    """Every file has the policy, its type, and an ETag that is answered with 304."""
    answer = server.get(f"/ui/{name}")
    again = server.request("GET", f"/ui/{name}", headers={"if-none-match": answer.headers["etag"]})

    assert answer.status_code == 200
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["nothing.js", "..%2fapp.py", "%2e%2e/app.py", "__init__.py", "app.js/"])
def test_nothing_else_is_served(server, name):
    """A file that is none of the page's is not found."""
    assert server.get(f"/ui/{name}").status_code == 404


def test_the_page_has_no_inline_script_or_style():
    """Nothing in the page would need a weaker policy."""
    page = (ui_files.files("serving") / "ui" / "index.html").read_text()

    assert "<style" not in page
    assert " style=" not in page
    assert "onclick" not in page
    assert page.count("<script") == 1
