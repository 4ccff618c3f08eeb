"""load_spec: presets, --set, spec files, config.json and its folder, and what bad input gets."""

import json
import os

import pytest

from flopwatch.errors import EXIT_USAGE, FlopwatchError, InputError, SpecError, UnknownModelError
from flopwatch.model.load import is_factory, load_spec, preset_names
from flopwatch.model.params import count_params

LLAMA = {
    "model_type": "llama",
    "vocab_size": 211,
    "hidden_size": 48,
    "intermediate_size": 100,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
}


@pytest.mark.parametrize(
    ("name", "n_params"),
    [
        ("gpt-small", 163_037_184),
        ("gpt-medium", 406_286_336),
        ("gpt-large", 838_359_040),
        ("gpt-xl", 1_638_022_400),
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
    ],
)
def test_gpt_presets_have_their_known_parameter_counts(name, n_params):
    """The figures of issue A: the book's models untied, OpenAI's tied."""
    assert count_params(load_spec(name)).total == n_params


def test_a_preset_is_found_whatever_its_case():
    """GPT-XL is gpt-xl."""
    assert load_spec("GPT-XL").name == "gpt-xl"


def test_a_name_without_end_is_not_repeated_to_its_end():
    """A file that was pasted in place of a name."""
    with pytest.raises(UnknownModelError) as caught:
        load_spec("x" * 5000)
    assert len(str(caught.value)) < 300


def test_an_unknown_name_gets_the_nearest_ones():
    """One line: what is unknown, and what was probably meant."""
    with pytest.raises(UnknownModelError, match=r"no model is called 'gpt-smal'; did you mean gpt-small") as caught:
        load_spec("gpt-smal")
    assert caught.value.exit_code == EXIT_USAGE
    assert "\n" not in str(caught.value)


def test_a_change_is_made_before_fields_are_derived():
    """d_model=1024 gives a d_ff of 4096 and heads of 1024/16, and the name says what was changed."""
    spec = load_spec("gpt-small", {"d_model": "1024", "n_heads": "16", "max_seq_len": "2k"})
    assert (spec.d_model, spec.d_ff, spec.d_head, spec.max_seq_len) == (1024, 4096, 64, 2048)
    assert spec.name == "gpt-small (d_model=1024, n_heads=16, max_seq_len=2k)"


def test_a_changed_vocabulary_has_its_own_padding():
    """A padded size that belonged to the old vocabulary is not kept beside the new one."""
    assert load_spec("gpt-small", {"padded_vocab_size": "50304"}).padded_vocab_size == 50304
    spec = load_spec("bloom-176b", {"vocab_size": "1000"})
    assert (spec.vocab_size, spec.padded_vocab_size) == (1000, 1000)


def test_sub_fields_are_set_by_dotted_names():
    """A dense model becomes a mixture, piece by piece."""
    changes = {"moe.n_experts": "7", "moe.experts_per_token": "2", "moe.d_ff_expert": "99", "moe.dense_layers": "0,3"}
    moe = load_spec("gpt-small", changes).moe
    assert moe is not None
    assert (moe.n_experts, moe.experts_per_token, moe.d_ff_expert, moe.dense_layers) == (7, 2, 99, (0, 3))


def test_none_takes_a_part_away():
    """--set moe=none leaves the dense model, --set window=none every layer with full attention."""
    assert load_spec("mixtral-8x7b", {"moe": "none"}).moe is None
    spec = load_spec("gemma-2-2b", {"window": "none"})
    assert (spec.window, spec.n_windowed_layers) == (None, 0)


def test_another_window_keeps_its_layers():
    """Gemma 2 has it in 13 of its 26 layers, whatever its width."""
    spec = load_spec("gemma-2-2b", {"window": "1k"})
    assert (spec.window, spec.n_windowed_layers) == (1024, 13)


def test_padded_vocab_is_another_name_of_padded_vocab_size(tmp_path):
    """In --set and in a spec file; both at once would leave open which one counts."""
    assert load_spec("gpt2", {"padded_vocab": "50304"}).padded_vocab_size == 50304
    path = tmp_path / "mine.toml"
    path.write_text("n_layers = 3\nd_model = 48\nn_heads = 6\nvocab_size = 211\npadded_vocab = 256\n")
    assert load_spec(str(path)).padded_vocab_size == 256
    path.write_text(path.read_text() + "padded_vocab_size = 256\n")
    with pytest.raises(InputError, match="has padded_vocab and padded_vocab_size, which are one field"):
        load_spec(str(path))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"d_modle": "3"}, "'d_modle' is not a field of a model; did you mean d_model"),
        ({"moe.n_expert": "3"}, "did you mean moe.n_experts"),
        ({"n_layers": "many"}, "n_layers=many is not a whole number"),
        ({"n_layers": "-3"}, "n_layers=-3 is not a whole number"),
        ({"n_layers": "0"}, "n_layers=0 is not a positive whole number"),
        ({"n_layers": "2M"}, "n_layers=2000000 is more than 1048576"),
        ({"bias": "maybe"}, "bias=maybe is not true or false"),
        ({"ffn": "mish"}, "ffn='mish' is not one of gelu, relu"),
        ({"n_heads": "7"}, "d_model=768 is not divisible by n_heads=7; give d_head"),
        ({"moe": "8"}, "moe=8 cannot be given as a text; set its parts"),
        ({"moe.n_experts": "8"}, "moe: object missing required field `experts_per_token`"),
    ],
)
def test_a_change_that_cannot_be_made_names_the_field(changes, said):
    """The field, the text given and the rule, in one line, exit code 2."""
    with pytest.raises(InputError) as caught:
        load_spec("gpt-small", changes)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("models.gpt:build", True), ("a:b", True), ("hf:gpt2", False), ("gpt2", False), ("./a:b", False)],
)
def test_a_factory_is_told_from_a_model_by_its_form(name, is_one):
    """package.module:callable, and nothing else."""
    assert is_factory(name) is is_one


def test_a_factory_has_no_closed_form():
    """It is refused here with the way to count it, and is not imported."""
    with pytest.raises(InputError, match="use count --trace, which runs it"):
        load_spec("no_such_package.module:build")


def test_spec_files_of_both_kinds_describe_the_same_network(tmp_path):
    """The fields of product.md with their sub-tables, in TOML and in JSON; a saved spec can be loaded again."""
    fields = {"n_layers": 3, "d_model": 48, "n_heads": 6, "vocab_size": 211, "padded_vocab_size": 256}
    moe = {"n_experts": 5, "experts_per_token": 2, "d_ff_expert": 33}
    lines = [f"{name} = {value}" for name, value in fields.items()]
    lines += ["[moe]", *(f"{name} = {value}" for name, value in moe.items())]
    (tmp_path / "mine.toml").write_text("\n".join(lines))
    (tmp_path / "mine.json").write_text(json.dumps({**fields, "moe": moe}))
    spec = load_spec(str(tmp_path / "mine.toml"))
    assert spec == load_spec(str(tmp_path / "mine.json"))
    assert spec.name == "mine"
    (tmp_path / "again.json").write_text(json.dumps(spec.to_dict()))
    assert load_spec(str(tmp_path / "again.json")) == spec


def test_a_config_is_found_by_its_folder_and_named_after_it(tmp_path):
    """Of a model's folder only config.json is read."""
    folder = tmp_path / "tiny-llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    assert load_spec(str(folder)) == load_spec(str(folder / "config.json"))
    assert load_spec(str(folder)).name == "tiny-llama"


def test_a_multimodal_config_describes_its_text_part_and_says_so(tmp_path):
    """Gemma 3 as transformers writes it: a sparse text_config, the tie above it."""
    text = {"model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34, "intermediate_size": 10240}
    config = {"model_type": "gemma3", "text_config": text, "vision_config": {"model_type": "siglip"}}
    (tmp_path / "gemma-3-4b.json").write_text(json.dumps(config))
    spec = load_spec(str(tmp_path / "gemma-3-4b.json"))
    assert spec.name == "gemma-3-4b (text part)"
    assert count_params(spec).total == 3_880_263_168  # Gemma3ForCausalLM of google/gemma-3-4b: 3.88B


def test_the_tie_of_a_multimodal_config_may_stand_above_its_text_part(tmp_path):
    """Llava over a tiny Llama: the head is the table, 211 x 48 parameters less, whatever the text part says."""
    totals = []
    for is_tied in (False, True):
        for nested in (LLAMA, LLAMA | {"tie_word_embeddings": not is_tied}):
            config = {"model_type": "llava", "tie_word_embeddings": is_tied, "text_config": nested}
            (tmp_path / "config.json").write_text(json.dumps(config))
            totals.append(count_params(load_spec(str(tmp_path))).total)
    untied, also_untied, tied, also_tied = totals
    assert (untied, tied) == (also_untied, also_tied)
    assert untied - tied == 211 * 48


def _files(folder):
    (folder / "empty").mkdir()
    (folder / "loop").mkdir()
    (folder / "loop" / "config.json").symlink_to(folder / "loop" / "config.json")
    (folder / "junk.json").write_bytes(bytes(range(256)))
    (folder / "cut.json").write_text('{"model_type": "llama",')
    (folder / "nan.json").write_text('{"model_type": "llama", "num_hidden_layers": NaN}')
    (folder / "list.json").write_text("[1, 2]")
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "cut.toml").write_text("n_layers = ")
    (folder / "odd.toml").write_text("n_layer = 3\n")
    (folder / "text.toml").write_text('n_layers = "3"\nd_model = 48\nn_heads = 6\nvocab_size = 211\n')
    (folder / "nothing.json").write_text("{}")
    os.mkfifo(folder / "pipe.json")
    with (folder / "huge.json").open("wb") as file:
        file.truncate(100_000_000)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("absent.json", "does not exist; check the path"),
        ("absent/", "does not exist"),
        ("empty", "has no config.json"),
        ("loop", "has no config.json"),
        ("junk.json", "is not text (byte 128)"),
        ("cut.json", "is not valid JSON: Input data was truncated"),
        ("nan.json", "num_hidden_layers=nan is not a positive whole number"),
        ("list.json", "holds no table of fields"),
        ("deep.json", "is nested too deeply"),
        ("cut.toml", "is not valid TOML"),
        ("odd.toml", "'n_layer' is not a field of a model; did you mean n_layers?"),
        ("text.toml", "n_layers: expected `int`, got `str`"),
        ("nothing.json", "missing required field `n_layers`"),
        ("pipe.json", "is not a regular file"),
        ("huge.json", "has 95.37 MiB, more than a model's description can need; the limit is 9.537 MiB"),
        ("null\0byte.json", "null\\x00byte.json' does not exist"),
        ("n" * 3000 + ".json", "File name too long"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(tmp_path, name, said):
    """One line, exit code 2, never another exception; a pipe does not hang, 100 MB are not read."""
    _files(tmp_path)
    with pytest.raises(InputError) as caught:
        load_spec(f"{tmp_path}/{name}")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path):
    """Permission denied is said as such."""
    path = tmp_path / "locked.json"
    path.write_text("{}")
    path.chmod(0)
    with pytest.raises(InputError, match="Permission denied"):
        load_spec(str(path))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_size": None}, "hidden_size is null or missing"),
        ({"hidden_size": "48"}, "hidden_size='48' is not a positive whole number"),
        ({"hidden_size": True}, "hidden_size=True is not a positive whole number"),
        ({"hidden_size": 48.0}, "hidden_size=48.0 is not a positive whole number"),
        ({"hidden_size": -48}, "hidden_size=-48 is not a positive whole number"),
        ({"hidden_size": 50}, "hidden_size=50 is not divisible by num_attention_heads=6; give head_dim"),
        ({"hidden_size": {"$ref": "other.json"}}, "hidden_size={'$ref': 'other.json'} is not a positive whole number"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers=1000000000000 is larger than any network's"),
        ({"num_key_value_heads": 4}, "num_key_value_heads=4 does not divide num_attention_heads=6"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings='yes' is not true or false"),
        ({"hidden_act": "mish"}, "hidden_act='mish' is no activation known"),
        ({"model_type": "mamba"}, "model_type='mamba' has no closed form here; "),
        ({"model_type": "mamba"}, "count it with --trace"),
        (
            {"model_type": "mine", "auto_map": {"AutoModel": "modeling.Mine"}},
            "auto_map names code in the model's folder",
        ),
        ({"model_type": 7}, "model_type=7 is not a text"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder=True is a variant without a closed form"),
        ({"model_type": "llava", "text_config": "/etc/passwd"}, "text_config='/etc/passwd' is not a table"),
        ({"model_type": "llava", "text_config": {}}, "text_config: model_type is missing"),
    ],
)
def test_a_wrong_key_of_a_config_is_named_with_its_value(tmp_path, change, said):
    """The file, the key, the value, the rule."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**LLAMA, **change}))
    with pytest.raises(InputError) as caught:
        load_spec(str(path))
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"])
def test_a_size_that_makes_the_network_is_never_assumed(tmp_path, key):
    """transformers always writes these keys: a config without one is broken, and its count would be wrong."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({name: value for name, value in LLAMA.items() if name != key}))
    with pytest.raises(InputError, match=f"{key} is missing; every config.json of a llama has it"):
        load_spec(str(path))


def test_two_names_of_one_key_must_agree(tmp_path):
    """transformers takes n_embd and hidden_size alike; a config with both, different, has no one meaning."""
    path = tmp_path / "config.json"
    gpt2 = {"model_type": "gpt2", "vocab_size": 211, "n_layer": 3, "n_head": 6, "n_positions": 40, "n_embd": 48}
    path.write_text(json.dumps(gpt2 | {"hidden_size": 96}))
    with pytest.raises(InputError, match="n_embd=48 contradicts hidden_size=96"):
        load_spec(str(path))


def test_code_in_a_models_folder_is_never_run(tmp_path):
    """A known type with auto_map is counted from its numbers; the file it names is not even opened."""
    (tmp_path / "modeling_mine.py").write_text("raise SystemExit('code of the model ran')")
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "auto_map": {"AutoModel": "modeling_mine.Mine"}}))
    assert load_spec(str(tmp_path)).d_model == 48


def test_every_error_is_of_the_kinds_that_the_command_line_prints():
    """SpecError and UnknownModelError are FlopwatchErrors with exit code 2."""
    assert issubclass(SpecError, InputError)
    assert issubclass(UnknownModelError, InputError)
    assert issubclass(InputError, FlopwatchError)
    assert InputError.exit_code == EXIT_USAGE


def test_preset_names_are_distinct_and_in_lower_case():
    """A name typed in any case finds its preset."""
    names = preset_names()
    assert len(set(names)) == len(names)
    assert all(name == name.lower() for name in names)
