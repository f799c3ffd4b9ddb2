# SPDX-License-Identifier: Apache-2.0
"""giftflow config: the example is valid, the reference is fresh, wrong input is refused by name and line."""

import os
import subprocess

import pytest
from stack import BUILD, ROOT

PROGRAM = ROOT / "build" / BUILD / "giftflow"


def config(*args, **env):
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIFTFLOW_")}
    done = subprocess.run([PROGRAM, "config", *map(str, args)], capture_output=True, text=True, timeout=60, env={**clean, **env})
    return done.returncode, done.stdout, done.stderr


def test_the_example_is_valid():
    assert config("check", "--config", ROOT / "config" / "giftflow.conf")[0] == 0


def test_the_reference_is_fresh():
    status, text, _ = config("doc")
    assert status == 0
    assert text == (ROOT / "config" / "reference.md").read_text(), "run: giftflow config doc > config/reference.md"


def test_the_defaults_are_a_valid_file_and_the_same_as_no_file(tmp_path):
    status, text, _ = config("defaults")
    assert status == 0
    path = tmp_path / "defaults.conf"
    path.write_text(text)
    assert config("check", "--config", path)[0] == 0
    assert config("check")[0] == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[settle]\nlanes = 2\nlane = 3\n", ("3", "lane")),
        ("[settle]\n\n; fine\nlanes = many\n", ("4", "lanes")),
        ("[settle]\nlanes = 0\n", ("2", "lanes")),
        ("[nowhere]\nport = 1\n", ("2", "nowhere")),
        ("[settle]\nretry_max = 30\n", ("2", "retry_max")),
        ("lanes = 2\n", ("1", "lanes")),
        ("[router]\nbatch = 20000\n", ("2", "batch")),  # of the longest notices, more than a link holds unsent
        ("[mysql]\nhost = a\n  prot = 3306\n", ("3", "unknown key mysql.prot")),  # not more of the host, though it is indented
        ("[mysql]\nhost = a\n\tthe second line of it\n", ("3", "key = value")),
        ("[mysql\nhost = a\n", ("1", "[section]")),
        ("[log]\nlevel = loud\n", ("2", "log.level", "loud", "debug info warn error")),
        ("[kafka]\ncompression = lz5\n", ("2", "kafka.compression", "lz5", "lz4")),
        ("[kafka]\nprefix = gifts/eu\n", ("2", "kafka.prefix", "gifts/eu")),
        ("[mysql]\ndatabase = gift-flow\n", ("2", "mysql.database", "gift-flow")),
        ("[ingest]\n\nredis_down = wait\n", ("3", "ingest.redis_down", "wait", "accept refuse")),
        ("[mysql] host = a\n", ("1", "[section]")),
    ],
)
def test_a_wrong_line_is_named(tmp_path, text, words):
    path = tmp_path / "wrong.conf"
    path.write_text(text)
    status, _, error = config("check", "--config", path)
    assert status == 2
    assert "wrong.conf" in error and all(word in error for word in words), error


def test_a_file_may_be_indented_have_long_lines_and_come_from_anywhere(tmp_path):
    """What is read is seen by a second key that is wrong: its line and its value are named."""
    path = tmp_path / "good.conf"
    brokers = ",".join(f"kafka-{n}.streaming.svc.cluster.example:9092" for n in range(11))
    assert 450 < len(brokers) < 500
    text = f"\ufeff[kafka]\r\n  brokers = {brokers} ; {'why ' * 100}\r\n[settle]\r\n  lanes = 2\r\n\tretry_max=5s ; not ten\r\n# end"
    path.write_text(text, newline="")
    assert config("check", "--config", path) == (0, "the configuration is valid\n", "")
    path.write_text(text.replace("5s", "5h"), newline="")
    status, _, error = config("check", "--config", path)
    assert status == 2 and f"{path}:5: settle.retry_max: 5h is out of range" in error, error


def test_a_line_that_is_too_long_is_named(tmp_path):
    path = tmp_path / "wrong.conf"
    path.write_text(f"[log]\n; fine\nlevel = info ; {'x' * 5000}\n")
    status, _, error = config("check", "--config", path)
    assert status == 2 and f"{path}:3: longer than" in error, error


def test_a_directory_is_no_configuration(tmp_path):
    """A container whose mounted file is missing finds an empty directory there; the defaults are not what was meant."""
    status, _, error = config("check", "--config", tmp_path)
    assert status == 2 and f"{tmp_path}: cannot be read: Is a directory" in error, error


def test_the_environment_overrides_the_file(tmp_path):
    path = tmp_path / "good.conf"
    path.write_text("[settle]\nlanes = 2\n")
    assert config("check", "--config", path, GIFTFLOW_SETTLE_LANES="4")[0] == 0
    status, _, error = config("check", "--config", path, GIFTFLOW_SETTLE_LANES="0")
    assert status == 2 and "SETTLE_LANES" in error.upper().replace(".", "_"), error


@pytest.mark.parametrize(
    ("section", "settings", "words"),
    [
        ("redis", {"url": "http://redis:6379"}, ("redis.url", "http://redis:6379")),
        ("redis", {"url": "redis://a:1,,redis://b:1"}, ("redis.url",)),
        ("redis", {"url": "redis://a:99999"}, ("redis.url", "a:99999")),
        ("redis", {"url": "redis://[fd00::1:6379"}, ("redis.url", "[fd00::1:6379")),
        ("redis", {"url": "redis://:secret@redis:6379"}, ("redis.password_file",)),
        ("redis", {"url": "http://user:secret@redis:6379"}, ("redis.password_file",)),
        ("redis", {"url": "redis://redis:6379/3"}, ("redis.url", "database")),
        ("gateway", {"link_advertise": "gateway-1"}, ("gateway.link_advertise", "gateway-1")),
        ("gateway", {"link_advertise": "[fd00::1]:8082"}, ("gateway.link_advertise", "[fd00::1]:8082")),
        ("kafka", {"replication": 1, "min_insync": 2}, ("kafka.min_insync", "kafka.replication")),
        ("kafka", {"message_timeout": "20s"}, ("kafka.message_timeout", "ingest.request_timeout")),
    ],
)
def test_what_cannot_work_is_named_before_anything_starts(tmp_path, section, settings, words):
    """A process would start with most of these, and be of no use."""
    path = tmp_path / "wrong.conf"
    path.write_text(f"[{section}]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()))
    status, _, error = config("check", "--config", path)
    assert status == 2 and all(word in error for word in words) and "secret" not in error, error


@pytest.mark.parametrize("url", ["redis://[fd00::1]:6379", "redis://[::1]", "redis://a:1, unix:///run/redis.sock", "redis://a:1/"])
def test_redis_may_live_in_many_places(url):
    assert config("check", GIFTFLOW_REDIS_URL=url) == (0, "the configuration is valid\n", "")


@pytest.mark.parametrize("bind", ["0.0.0.0", "::", "0::0"])
def test_a_gateway_that_listens_everywhere_must_say_where_it_is_found(tmp_path, bind):
    path = tmp_path / "gateway.conf"
    path.write_text(f"[gateway]\nlink_bind = {bind}\n")
    status, _, error = config("check", "--config", path)
    assert status == 2 and "gateway.link_advertise" in error, error
    assert config("check", "--config", path, GIFTFLOW_GATEWAY_LINK_ADVERTISE="gateway-1:8082")[0] == 0
    assert config("check", "--config", path, GIFTFLOW_GATEWAY_LINK_BIND="10.0.0.1")[0] == 0


def test_a_missing_file_and_a_missing_word_are_refused(tmp_path):
    assert config("check", "--config", tmp_path / "none.conf")[0] == 2
    assert config()[0] == 2
    assert config("what")[0] == 2


@pytest.mark.parametrize("role", ["ingest", "settle", "router", "gateway", "sweep"])
def test_a_role_starts_with_the_configuration_that_was_meant_or_not_at_all(tmp_path, role):
    """The defaults would be another platform's addresses."""
    path = tmp_path / "wrong.conf"
    path.write_text("[nowhere]\nport = 1\n")
    for args, word in [
        ([f"--config={path}"], "nowhere"),
        (["--config", path], "nowhere"),
        (["--config"], "--config needs a file"),
        (["--config="], "--config needs a file"),
        (["--conf", path], "unknown argument '--conf'"),
        ([path], "unknown argument"),
    ]:
        command = [PROGRAM, role, *map(str, args)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={"GIFTFLOW_OPS_PORT": "0"})
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{command} has started") from None
        assert done.returncode == 2 and word in done.stderr, done.stderr


def test_the_file_may_be_named_in_three_ways(tmp_path):
    path = tmp_path / "wrong.conf"
    path.write_text("[nowhere]\nport = 1\n")
    for args, env in [(["check", f"--config={path}"], {}), (["--config", path, "check"], {}), (["check"], {"GIFTFLOW_CONFIG": str(path)})]:
        status, _, error = config(*args, **env)
        assert status == 2 and "wrong.conf:2" in error, error
