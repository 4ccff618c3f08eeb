"""--plots: each chart of a record as a real PNG and a real SVG, or a refusal that says what to install."""

import json
import shutil
import struct
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from flopwatch.cli import run
from flopwatch.errors import MissingError
from flopwatch.record import load_record
from flopwatch.report.plots import check_plots, plots_of

RECORDS = Path(__file__).parent / "data" / "records"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)"),
]


class TestWithABrowser:
    """Files that are what their name says."""

    pytestmark = needs_browser

    def test_every_chart_of_a_report_is_a_png_and_an_svg(self, tmp_path, capsys):
        """A PNG of twice the SVG's size; the SVG's texts hold the models' names."""
        folder = tmp_path / "plots"
        assert run(["show", str(RECORDS / "report_full.json"), "--plots", str(folder)]) == 0
        assert f"written to {folder}" in capsys.readouterr().err
        models = {r["model"] for r in json.loads((RECORDS / "report_full.json").read_text(encoding="utf-8"))["results"]}
        names = {path.stem for path in folder.iterdir()}
        assert {"work", "probes", "memory", "speed", "utilization", "batch_curve"} <= names
        assert {name.partition("-")[0] for name in names} >= {"modules", "roofline", "conventions"}
        texts = ""
        for name in names:
            svg = ET.parse(folder / f"{name}.svg").getroot()
            assert svg.tag == "{http://www.w3.org/2000/svg}svg"
            inner = " ".join(filter(None, (node.text for node in svg.iter())))
            assert any(model in inner for model in models), name
            texts += inner
            data = (folder / f"{name}.png").read_bytes()
            assert data[:8] == b"\x89PNG\r\n\x1a\n"
            width, height = struct.unpack(">II", data[16:24])
            assert (width, height) == (2 * float(svg.get("width")), 2 * float(svg.get("height")))
        assert all(model in texts for model in models)
        assert not [path for path in folder.iterdir() if path.name.startswith(".")]

    def test_a_hostile_name_is_text_in_an_svg(self):
        """Its signs stand in a text node; there is no image and no script."""
        data = json.loads((RECORDS / "count.json").read_text(encoding="utf-8"))
        name = "</script><img src=x onerror=alert(1)>"
        for result in data["results"]:
            result["model"] = name + result["model"]
        files = plots_of(load_record(json.dumps(data)))
        svg = next(content for file, content in files.items() if file.endswith(".svg") and file.startswith("modules"))
        root = ET.fromstring(svg)
        assert not [node for node in root.iter() if node.tag.endswith(("}image", "}script"))]
        assert any(name[:20] in (node.text or "") for node in root.iter())
        assert all("/" not in file for file in files)


def test_without_a_browser_the_way_out_is_said(monkeypatch, tmp_path, capsys):
    """Exit code 4, one line, and nothing is written or counted."""
    pytest.importorskip("kaleido")
    chromium = pytest.importorskip("choreographer.browsers.chromium")

    def nothing_found(*_args, **_options):
        raise chromium.ChromeNotFoundError

    monkeypatch.setattr(chromium.Chromium, "find_browser", nothing_found)
    assert run(["count", "gpt-small", "--plots", str(tmp_path / "plots")]) == 4
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "Chrome or Chromium" in said.err
    assert "apt-get install chromium" in said.err
    assert not (tmp_path / "plots").exists()


def test_without_kaleido_the_extra_is_named(monkeypatch):
    """pip install 'flopwatch[plots]'."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingError, match=r"needs kaleido.*pip install 'flopwatch\[plots\]'"):
        check_plots()


def test_a_file_is_no_folder_for_plots(tmp_path, capsys):
    """Exit code 2."""
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    assert run(["count", "gpt-small", "--plots", str(tmp_path / "file")]) == 2
    assert "is a file; name a folder" in capsys.readouterr().err
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"
