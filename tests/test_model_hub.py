"""hf:ORG/NAME: the hub is asked for config.json alone; absent, gated, offline and not installed are told apart."""

import http.server
import json
import subprocess
import sys
import threading

import pytest

from flopwatch.errors import InputError, MissingError
from flopwatch.model.load import load_spec

pytest.importorskip("huggingface_hub")

CONFIG = {
    "model_type": "llama",
    "vocab_size": 211,
    "hidden_size": 48,
    "intermediate_size": 100,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
}
# Loads a model from the hub in a process of its own: the hub's client reads its settings when it is imported.
LOAD = """
import sys
from flopwatch.errors import FlopwatchError
from flopwatch.model.load import load_spec
try:
    spec = load_spec(sys.argv[1])
except FlopwatchError as error:
    print(f"{type(error).__name__} {error.exit_code}: {error}")
else:
    print(spec.name, spec.d_model)
"""


class _Hub(http.server.BaseHTTPRequestHandler):
    """A hub with one open model, one gated one, and no other."""

    asked: list[str] = []  # noqa: RUF012 - one list for the one server

    def do_HEAD(self):
        self._answer(with_body=False)

    def do_GET(self):
        self._answer(with_body=True)

    def _answer(self, *, with_body):
        self.asked.append(self.path)
        body = json.dumps(CONFIG).encode()
        if "/gated/" in self.path:
            self.send_response(403)
            self.send_header("X-Error-Code", "GatedRepo")
            body = b""
        elif "/org/tiny/" in self.path:
            self.send_response(200)
            self.send_header("ETag", '"1234567890"')
            self.send_header("X-Repo-Commit", "0" * 40)
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            body = b""
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_):
        """Nothing on stderr."""


@pytest.fixture
def hub():
    """The address of a hub on this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    _Hub.asked.clear()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def _load(name, endpoint, cache):
    # The client makes certificates ready before its first connection, so it needs the rest of the environment too.
    environment = {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "PATH": "", "NO_PROXY": "*"}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, name], capture_output=True, text=True, env=environment, timeout=120, check=True
    )
    return done.stdout.strip()


def test_a_models_config_is_fetched_and_nothing_else(hub, tmp_path):
    """Only config.json is asked for; offline, the copy in the cache serves."""
    assert _load("hf:org/tiny", hub, tmp_path) == "org/tiny 48"
    assert {path for path in _Hub.asked if "tiny" in path} == {"/org/tiny/resolve/main/config.json"}
    assert _load("hf:org/tiny", "http://127.0.0.1:9", tmp_path) == "org/tiny 48"


def test_an_unknown_and_a_gated_model_are_told_apart(hub, tmp_path):
    """Exit code 2 for a name that the hub does not have, 4 for one that it does not give."""
    assert _load("hf:org/absent", hub, tmp_path).startswith(
        "UnknownModelError 2: the hub has no config.json of hf:org/absent"
    )
    assert _load("hf:org/gated", hub, tmp_path).startswith("MissingError 4: hf:org/gated is gated")


def test_without_a_network_the_error_says_so(tmp_path):
    """Exit code 4, the address, and the way out, at once."""
    said = _load("hf:org/tiny", "http://127.0.0.1:9", tmp_path)
    assert said.startswith("MissingError 4: hf:org/tiny cannot be fetched: http://127.0.0.1:9 is not reachable")


def test_without_the_package_the_error_names_the_command(monkeypatch):
    """Exit code 4 and what to install."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingError, match=r"needs huggingface_hub; pip install 'flopwatch\[hf\]'"):
        load_spec("hf:org/tiny")


@pytest.mark.parametrize("name", ["hf:", "hf:a b", "hf:../../etc/passwd", "hf:a/b/c"])
def test_a_name_that_cannot_be_on_the_hub_is_refused(name):
    """Before anything is asked for."""
    with pytest.raises(InputError, match="names no model on the hub"):
        load_spec(name)
