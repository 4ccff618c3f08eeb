"""The calculator on the page, in a real browser: its figures are the closed forms', and a keyboard reaches it."""

import json
import re
from pathlib import Path

import msgspec
import pytest

from browser_page import browser_only
from flopwatch.compare.roofline import Roof, roofline
from flopwatch.compare.whatif.coefficients import coefficients_of
from flopwatch.compare.whatif.evaluate import Choice, what_if
from flopwatch.compare.whatif.target import target_of
from flopwatch.cost.memory import estimate_memory
from flopwatch.device.catalog import catalog_devices
from flopwatch.measure.limit import card_limit
from flopwatch.model.load import load_spec
from flopwatch.model.spec import spec_from_fields
from flopwatch.record import load_record
from flopwatch.report.html import to_html
from flopwatch.workload import Workload
from whatif_truth import MODELS, choices, largest_batch, model, truth, workload_of

RECORDS = Path(__file__).parent / "data" / "records"
REPORT, FULL = RECORDS / "report.json", RECORDS / "report_full.json"

# Sets every control as a person would, says so once, and reads the figures back.
CHOOSE = """choices => {
  const form = document.querySelector("form.whatif");
  return choices.map(choice => {
    form.elements.model.value = choice.model;
    form.elements.model.dispatchEvent(new Event("input", {bubbles: true}));
    for (const [name, value] of Object.entries(choice)) form.elements[name].value = value;
    form.elements.batch.dispatchEvent(new Event("input", {bubbles: true}));
    const found = {};
    for (const node of form.querySelectorAll("[data-figure]")) {
      found[node.dataset.figure] = "value" in node.dataset ? Number(node.dataset.value) : null;
    }
    found.text = form.querySelector(".outcome").innerText;
    return found;
  });
}"""


def _data(specs, **workload):
    """A report of these models, as a CPU would have made it."""
    data = json.loads(REPORT.read_text(encoding="utf-8"))
    step = Workload(**({"seq_len": 48, "phase": "train", "dtype": "bf16"} | workload))
    data["request"] |= {"models": [spec.to_dict() for spec in specs], "workload": step.to_dict()}
    data["request"]["phases"] = ["forward", "train"]
    return data


def _embedded(page):
    (text,) = re.findall(r'<script type="application/json" id="whatif">(.*?)</script>', page)
    return json.loads(text)


def _data_of_all():
    """A report of all small models."""
    return _data([model(name) for name in MODELS])


def test_a_record_without_its_models_says_so():
    """An old record still renders: no calculator, and a line why."""
    page = to_html(load_record(REPORT.read_bytes()))
    assert 'class="whatif"' not in page
    assert "The record does not hold the models&#39; numbers" in page


def test_a_record_without_its_cache_says_so():
    """Its roofline is of this machine, but without the cache no other step can be worked out under it."""
    said = _embedded(to_html(load_record(FULL.read_bytes())))["said"]["0"]
    assert "does not hold the cache of this machine" in said["devices"]["here"]["why_no_peak"]["fp32"]


@pytest.mark.slow
def test_the_whole_catalogue_and_every_model_are_there():
    """Each card once, with this machine; the page of the four GPTs is below 6 MB."""
    data = _data([load_spec(f"gpt-{size}") for size in ("small", "medium", "large", "xl")])
    page = to_html(load_record(json.dumps(data)))
    numbers = _embedded(page)["numbers"]["0"]
    labels = [device["label"] for device in numbers["devices"].values()]
    assert sorted(labels[1:]) == sorted(card.label for card in catalog_devices())
    assert [model["n_params"] for model in numbers["models"]] == [163037184, 406286336, 838359040, 1638022400]
    assert len(page.encode()) < 6_000_000


class TestInTheBrowser:
    """The same page, with a person's hands on it."""

    pytestmark = browser_only

    def test_every_figure_is_the_closed_forms(self, opened):
        """240 choices of model, phase, batch, sequence, dtype, optimizer, checkpointing, attention and card.

        The largest batch is Python's; that Python's is the closed forms' is shown in test_whatif_coefficients.py.
        """
        cards = catalog_devices()
        wanted = choices(240, seed=5)
        shown = opened(_data_of_all())
        found = shown.page.evaluate(CHOOSE, [_controls(name, choice, card) for name, choice, card in wanted])
        for (name, choice, card), figures in zip(wanted, found, strict=True):
            python = what_if(coefficients_of(model(name), Workload(), ("cuda", "cpu")), choice, target_of(cards[card]))
            expected = truth(model(name), choice, cards[card]) | {"largest_batch": python.largest_batch}
            for figure, value in expected.items():
                close = value if value is None else pytest.approx(value, rel=1e-9)
                assert figures[figure] == close, (name, choice, cards[card].label, figure)
        assert shown.said == []

    def test_the_largest_batch_is_the_closed_forms(self, opened):
        """gpt-small in training on cards of 16 and 24 GB: of their tensors, and so at most that, as the page says."""
        spec = load_spec("gpt-small")
        cards = {card.label: (number, card) for number, card in enumerate(catalog_devices())}
        shown = opened(_data([spec]))
        for label in ("T4 PCIe", "L4 PCIe"):
            number, card = cards[label]
            choice = Choice(batch=1, seq_len=512, phase="train", dtype="bf16", recompute="full")
            (figures,) = shown.page.evaluate(CHOOSE, [_controls(0, choice, number)])
            limit_bytes = card_limit(card).limit_bytes
            largest = largest_batch(spec, choice, limit_bytes, most=4096)
            assert figures["largest_batch"] == largest
            assert f"largest batch at most {largest}." in figures["text"]
            assert figures["text"].startswith("Fits: ")
            full = msgspec.structs.replace(choice, batch=largest)
            (figures,) = shown.page.evaluate(CHOOSE, [_controls(0, full, number)])
            assert figures["text"].startswith("The tensors fit, ")
            (figures,) = shown.page.evaluate(
                CHOOSE, [_controls(0, msgspec.structs.replace(full, batch=largest + 1), number)]
            )
            assert figures["text"].startswith("Does not fit: ")

    def test_this_machine_has_the_roof_that_its_record_tells_of(self, opened):
        """The step that was timed, under the record's peak, bandwidth and cache: the record's own least time."""
        data = json.loads(FULL.read_text(encoding="utf-8"))
        for result in data["results"]:
            for step in result["rooflines"]:
                step["details"] = {"cache_bytes": 33554432}
        (spec,) = map(spec_from_fields, data["request"]["models"])
        best = data["results"][0]["rooflines"][1]
        roof = Roof(
            device="here",
            kind="measured",
            flops_per_s={"fp32": best["peak_flops_per_s"]},
            bandwidth_bytes_per_s=best["bandwidth_bytes_per_s"],
            peak_source="",
            bandwidth_source="",
            cache_bytes=33554432,
        )
        choice = Choice(batch=5, seq_len=64, phase="train", dtype="fp32")
        (figures,) = opened(data).page.evaluate(CHOOSE, [_controls(0, choice, "here")])
        expected = roofline(spec, workload_of(choice), roof)
        assert figures["time_s"] == pytest.approx(expected.time_s, rel=1e-9)
        assert figures["highest_mfu"] == pytest.approx(expected.highest_mfu, rel=1e-9)

    def test_the_page_starts_from_the_reports_own_step(self, opened):
        """Its phase, batch, sequence and dtype, on the machine that made it: the closed form for a CPU."""
        spec = load_spec("gpt-small")
        fit = json.loads(REPORT.read_text(encoding="utf-8"))["results"][0]["fits"][1]
        shown = opened(_data([spec], seq_len=256, dtype="fp32"))
        step = Workload(batch=fit["batch"], seq_len=256, phase="train", dtype="fp32")
        peak = shown.page.locator("[data-figure=peak_bytes]").first
        assert float(peak.get_attribute("data-value")) == estimate_memory(spec, step).peak_bytes
        limit = shown.page.locator("[data-figure=limit_bytes]").first
        assert limit.get_attribute("data-value") == str(fit["limit_bytes"])

    def test_sliders_and_numbers_move_together_by_keyboard(self, opened):
        """An arrow on a slider is the next size, and the figures follow; a number moves its slider."""
        shown = opened(_data_of_all(), width=375)
        shown.page.locator("form.whatif [name=batch]").first.fill("6")
        slider = shown.page.locator("form.whatif [data-for=batch]").first
        flops = shown.page.locator("[data-figure=model_flops]").first
        before = float(flops.get_attribute("data-value"))
        slider.press("ArrowRight")
        assert shown.page.locator("form.whatif [name=batch]").first.input_value() == "8"
        assert float(flops.get_attribute("data-value")) == pytest.approx(before * 8 / 6)
        assert shown.page.evaluate("document.documentElement.scrollWidth") <= 375
        shown.page.locator("form.whatif [name=seq_len]").first.fill("98")
        assert "from 1 to 97" in shown.page.locator("form.whatif .verdict").first.inner_text()
        assert flops.get_attribute("data-value") is None
        assert shown.said == []

    def test_tab_goes_through_every_menu_number_and_slider(self, opened):
        """From the first menu on, in their order; each has a name that a screen reader speaks."""
        shown = opened(_data_of_all())
        shown.page.locator("form.whatif [name=model]").first.focus()
        reached = []
        for _ in range(11):
            reached.append(
                shown.page.evaluate(
                    "(node => [node.name || node.dataset.for, (node.labels[0] || node).innerText"
                    " || node.ariaLabel])(document.activeElement)"
                )
            )
            shown.page.keyboard.press("Tab")
        names = ["model", "phase", "dtype", "optimizer", "recompute", "attention", "device"]
        assert [name for name, _ in reached] == [*names, "batch", "batch", "seq_len", "seq_len"]
        assert all(label for _, label in reached)

    def test_what_is_not_known_is_said_with_its_reason(self, opened):
        """Experts that get unequal shares; a card without bf16."""
        shown = opened(_data_of_all())
        odd = Choice(batch=1, seq_len=41, phase="train", dtype="bf16")
        place = next(n for n, card in enumerate(catalog_devices()) if card.peak("bf16") is None)
        (figures,) = shown.page.evaluate(CHOOSE, [_controls("experts", odd, place)])
        assert (figures["peak_bytes"], figures["time_s"]) == (None, None)
        assert "equal shares only of a multiple of 2 tokens" in figures["text"]
        assert catalog_devices()[place].why_no_peak("bf16") in figures["text"]

    def test_what_has_no_closed_form_is_said_in_the_readers_language(self, opened):
        """Mixed precision has no roofline; its memory is that of the closed form."""
        spec = model("gpt")
        shown = opened(_data([spec], precision="autocast"), lang="zh")
        assert (
            "未知：precision=autocast 的屋顶线模型没有闭式公式" in shown.page.locator(".outcome:visible").inner_text()
        )
        choice = Choice(batch=3, seq_len=36, phase="train", dtype="bf16")
        (figures,) = shown.page.evaluate(CHOOSE, [_controls(0, choice, "here")])
        assert figures["peak_bytes"] == estimate_memory(spec, workload_of(choice, precision="autocast")).peak_bytes
        assert figures["time_s"] is None

    def test_both_languages_choose_the_same(self, opened):
        """What is chosen in English is chosen in Chinese."""
        shown = opened(_data_of_all())
        shown.page.locator("form.whatif [name=batch]").first.fill("5")
        values = shown.page.locator("form.whatif [name=batch]").evaluate_all("nodes => nodes.map(node => node.value)")
        assert values == ["5", "5"]


def _controls(name, choice, card):
    """The values of the page's controls."""
    fields = msgspec.to_builtins(choice)
    number = name if isinstance(name, int) else list(MODELS).index(name)
    return {**{key: str(value) for key, value in fields.items()}, "model": str(number), "device": str(card)}
