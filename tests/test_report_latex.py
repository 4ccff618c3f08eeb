"""LaTeX: tables that a paper can read in, and names that are text whatever is in them."""

import re

import pytest

from flopwatch.cli import run
from flopwatch.record import make_record
from flopwatch.report.latex import to_latex

HOSTILE = r"\input{/etc/passwd} $x_1^2$ 100 % & # ~ {a} <b> |c| `d` [e] * -- ,, \end{tabular} \\ " + "\n\n\x1b[31m"


def fit(name):
    return {
        "model": name,
        "phase": "train",
        "seq_len": 71,
        "dtype": "fp32",
        "batch": 3,
        "verified": True,
        "predicted_batch": 3,
        "predicted_peak_bytes": 1000,
        "measured_peak_bytes": 1001,
        "limit_bytes": 1200,
        "limit_source": name,
        "next": {"batch": 4, "outcome": "oom", "how": "ran"},
        "probes": [{"batch": 3, "outcome": "ok", "peak_bytes": 1001, "wall_s": 1.0, "detail": name}],
    }


def latex_of(name, **more):
    record = make_record("fit", environment={}, request={}, results=[fit(name)], warnings=[name])
    return to_latex(record, **more)


def without_escapes(text):
    """The text with everything taken out that TeX takes as a sign or that this module writes as a command."""
    text = re.sub(r"\\text(backslash|asciitilde|asciicircum|less|greater|bar|asciigrave|quotedbl)\{\}", "", text)
    return re.sub(r"\$-\$|\$\\(times|cdot|geq|leq|rightarrow|mu)\$|\\ldots\{\}|\{[\[\]*]\}|\\[{}$&#_%]", "", text)


def test_a_hostile_name_is_text_in_every_place(capsys):
    """Outside of what the module itself writes, no character is left that means something to TeX."""
    own = re.compile(
        r"\\(begin|end)\{(table|tabular|itemize)\}(\[htbp\])?(\{@\{\}.*@\{\}\})?|\\centering|\\caption|\\(sub)?section\*"
        r"|\\(top|mid|bottom)rule|\\par\\smallskip|\\footnotesize|\\textbf|\\item|\\\\$",
        re.MULTILINE,
    )
    body = latex_of(HOSTILE).partition("\n")[2]
    left = own.sub("", without_escapes(body))
    assert re.findall(r"[\\$#_%~^<>|`\"]", left) == []
    assert "\x1b" not in body
    assert "--" not in left
    assert body.count(r"\begin{tabular}") == body.count(r"\end{tabular}") == 2
    assert body.count("{") == body.count("}")


def test_what_follows_a_row_end_is_never_an_argument_of_it():
    """`\\` takes a [length] or a * that comes next: neither may start a row."""
    for name in ("[2em]", "*"):
        rows = [line.strip() for line in latex_of(name).splitlines()]
        assert not [line for line in rows if line.startswith(("[", "*"))]


def test_every_row_has_as_many_cells_as_the_table_has_columns():
    """An & in a name is a sign, not a cell."""
    tabular = r"\\begin\{tabular\}\{@\{\}(.*?)@\{\}\}\n(.*?)\\end\{tabular\}"
    for table in re.findall(tabular, latex_of("a & b"), re.DOTALL):
        n_columns = len(re.findall(r"[lr]|p\{[^}]*\}", table[0]))
        lines = [line for line in table[1].splitlines() if line.endswith("\\\\")]
        assert lines
        assert {len(re.split(r"(?<!\\)&", line)) for line in lines} == {n_columns}


def test_a_minus_is_a_minus_and_two_hyphens_are_no_dash():
    """`-0.9 %` is a number, `--accumulate` an option, `2026-11-24` a date."""
    text = latex_of("-0.9 --accumulate 2026-11-24 gpt-2")
    assert "$-$0.9 -{}-accumulate 2026-11-24 gpt-2" in text


@pytest.mark.parametrize(
    "argv",
    [
        ["count", "gpt-small", "gpt-xl"],
        ["memory", "gpt-small", "--batch", "2"],
        ["mfu", "gpt-xl", "--tokens-per-s", "6779.92", "--device", "A100 SXM4 40GB"],
        ["roofline", "gpt-small", "--device", "A100 SXM4 40GB"],
        ["devices", "A100 SXM4 40GB"],
        ["fit", "gpt-small", "--predict-only", "--device", "A100 SXM4 40GB"],
    ],
    ids=lambda argv: argv[0],
)
def test_every_kind_of_answer_has_its_tables_in_latex(argv, capsys):
    """The rules of booktabs, environments that close, the packages named in the first line."""
    assert run([*argv, "--latex"]) == 0
    out = capsys.readouterr().out
    assert r"\usepackage{booktabs}" in out.splitlines()[0]
    assert r"\toprule" in out
    assert re.findall(r"\\begin\{(\w+)\}", out) != []
    for name in set(re.findall(r"\\begin\{(\w+)\}", out)):
        assert out.count(f"\\begin{{{name}}}") == out.count(f"\\end{{{name}}}")


def test_two_forms_at_once_are_refused(capsys):
    """One answer, one form."""
    assert run(["count", "gpt-small", "--latex", "--markdown"]) == 2
    assert "--markdown and --latex contradict each other" in capsys.readouterr().err
