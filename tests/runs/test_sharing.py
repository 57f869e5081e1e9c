"""Runs that are shared (`avcore.runs.sharing`), through a folder and through a hub on this machine."""

import json
import re
import shutil
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import yaml
from click.testing import CliRunner
from fake_hub import fake_hub

import avcore
from avcore.cli import main
from avcore.errors import AVCoreError
from avcore.runs.card import card_of
from avcore.runs.repositories import FILES, repository_of
from avcore.runs.sharing import pull, push
from avcore.states import trainable_state


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with fake_hub(monkeypatch, str(tmp_path / "hub-cache")) as one:
        yield one


@pytest.fixture(scope="module")
def shared(finished, tmp_path_factory):
    """A folder that stands for a repository, which tests may copy and not change."""
    folder = tmp_path_factory.mktemp("shared") / "rower"
    push(finished.directory, str(folder), license="cc-by-4.0")
    return folder


@pytest.fixture
def copied(shared, tmp_path):
    return shutil.copytree(shared, tmp_path / "copied")


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def same(model, other):
    before, after = trainable_state(model), trainable_state(other)
    return before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


def invoke(*arguments):
    return CliRunner().invoke(main, [*map(str, arguments)], catch_exceptions=False)


def change_description(folder, **entries):
    description = json.loads((folder / "adapter.json").read_text())
    for key, value in entries.items():
        (description if key in description else description["config"])[key] = value
    (folder / "adapter.json").write_text(json.dumps(description))


# --------------------------------------------------------------------------------------------------- through a folder


def test_a_shared_run_evaluates_as_the_run_did(finished, shared, tmp_path):
    pulled = pull(str(shared), tmp_path / "theirs")
    assert list(pulled.files) == list(FILES)
    again = avcore.load_run(tmp_path / "theirs")
    assert same(again.model, finished.run.model)
    assert not again.model.training
    assert again.evaluate("test") == finished.run.evaluate("test")
    assert again.results == finished.results
    told = invoke("eval", tmp_path / "theirs", "--json")
    assert json.loads(told.stdout)["metrics"]["test"] == finished.results.metrics["test"]
    with pytest.raises(AVCoreError, match="there is no other one"):
        avcore.load_run(tmp_path / "theirs", checkpoint="latest")


def test_what_was_pulled_is_shared_again(shared, tmp_path):
    push(pull(str(shared), tmp_path / "theirs").place, str(tmp_path / "again"), license="cc-by-4.0")
    for name in ("adapter.safetensors", "config.yaml", "results.json"):
        assert (tmp_path / "again" / name).read_bytes() == (shared / name).read_bytes()


def test_nothing_of_this_machine_and_no_code_is_shared(finished, shared):
    assert sorted(contents(shared)) == sorted(FILES)
    for name, content in contents(shared).items():
        assert str(finished.directory.parent).encode() not in content, name


def test_a_dry_run_writes_and_asks_nowhere(finished, hub, tmp_path):
    told = invoke("push", finished.directory, "me/rower", "--license", "mit", "--dry-run")
    assert (told.exit_code, hub.asked) == (0, [])
    assert all(name in told.stdout for name in FILES)
    told = invoke("push", finished.directory, tmp_path / "away", "--license", "mit", "--dry-run", "--json")
    assert json.loads(told.stdout)["place"] is None
    assert not (tmp_path / "away").exists()


def test_nothing_is_replaced_unasked(finished, copied, tmp_path):
    (copied / "notes.txt").write_text("mine")
    with pytest.raises(AVCoreError, match=r"holds README\.md, .* already\. --force"):
        push(finished.directory, str(copied), license="mit")
    push(finished.directory, str(copied), license="mit", force=True)
    assert "license: mit" in (copied / "README.md").read_text()
    assert (copied / "notes.txt").read_text() == "mine"
    pull(str(copied), tmp_path / "theirs")
    assert not (tmp_path / "theirs" / "notes.txt").exists()
    with pytest.raises(AVCoreError, match="--force replaces it"):
        pull(str(copied), tmp_path / "theirs")
    pull(str(copied), tmp_path / "theirs", force=True)
    with pytest.raises(AVCoreError, match="something else than what was pulled"):
        pull(str(copied), finished.directory, force=True)


def test_a_licence_is_asked_for(finished, tmp_path):
    told = invoke("push", finished.directory, tmp_path / "x")
    assert told.exit_code == 2
    assert "--license NAME" in told.stderr
    with pytest.raises(AVCoreError, match="--license is empty"):
        push(finished.directory, str(tmp_path / "x"), license=" ")


def test_a_run_that_is_not_finished_is_refused(finished, tmp_path):
    run = shutil.copytree(finished.directory, tmp_path / "run")
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps({**results, "status": "interrupted"}))
    with pytest.raises(AVCoreError, match=r"is interrupted: go on with avcore run --resume"):
        push(run, str(tmp_path / "x"), license="mit")


# ------------------------------------------------------------------------------------------------------------ the card


def card(results, run, **changed):
    given = {"name": "me/rower", "license": "mit", "digest": "abc"}
    text = card_of(results, run.config, run.registry, **{**given, **changed})
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


def test_the_card_of_a_demo_has_no_scores_for_a_leaderboard(finished):
    head, body = card(finished.results, finished.run)
    assert (head["library_name"], head["license"]) == ("avcore", "mit")
    assert {"avcore", "listen", "rowing"} <= set(head["tags"])
    assert "model-index" not in head
    assert "datasets" not in head
    assert "DEMO DATA" in body
    assert 'avcore.load_adapter("me/rower")' in body
    assert "digest `abc`" in body
    assert f"| all | {finished.results.params['total']:,} | {finished.results.params['trainable']:,} |" in body


def test_the_card_of_real_data_has_its_scores(finished):
    name = finished.results.dataset
    real = SimpleNamespace(datasets={name: replace(finished.run.registry.datasets[name], demo=False)})
    results = replace(finished.results, selected_on="test", protocol="paper")
    head, body = card(results, SimpleNamespace(config=finished.run.config, registry=real))
    metrics = {
        (one["dataset"]["split"], score["type"]): score["value"]
        for one in head["model-index"][0]["results"]
        for score in one["metrics"]
    }
    assert metrics == {
        (split, name): value for split, scores in results.metrics.items() for name, value in scores.items()
    }
    assert head["datasets"] == [results.dataset]
    assert "SELECTED ON TEST" in body
    assert "DEMO" not in body


# --------------------------------------------------------------------------------------------------- hostile or damaged


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train", {"start": "weights.pt"}),
        ("data", {"cache": "/tmp/elsewhere"}),
        ("data", {"dataset": "../../x"}),
        ("visual", {"backbone": "toy", "weights": "/etc/passwd"}),
        ("task", "${oc.env:HF_TOKEN}"),
        ("parts", {"rows": {"names": [{"a": "~/x"}]}}),
    ],
)
def test_settings_that_reach_out_of_the_folder_are_refused(copied, tmp_path, key, value):
    change_description(copied, **{key: value})
    with pytest.raises(AVCoreError, match="for this machine to decide: nothing is taken"):
        pull(str(copied), tmp_path / "theirs")
    with pytest.raises(AVCoreError, match="for this machine to decide"):
        avcore.load_run(copied)
    assert not (tmp_path / "theirs").exists()


def test_files_that_are_not_those_that_were_shared_are_refused(copied, tmp_path):
    (copied / "results.json").write_text((copied / "results.json").read_text().replace("100", "101", 1) + " ")
    with pytest.raises(AVCoreError, match=r"results\.json is not the one that was shared"):
        pull(str(copied), tmp_path / "theirs")
    assert not (tmp_path / "theirs").exists()


def test_another_major_version_and_other_frozen_weights_are_refused(copied):
    change_description(copied, frozen_digest="0" * 64)
    with pytest.raises(AVCoreError, match="Make the model with the same backbones and weights"):
        avcore.load_run(copied)
    change_description(copied, versions={"avcore": "9.0"})
    with pytest.raises(AVCoreError, match=r"saved with avcore 9\.0"):
        avcore.load_adapter(copied)


# ------------------------------------------------------------------------------------------------------ through a hub


def test_through_the_hub_and_back(finished, hub, tmp_path):
    told = invoke("push", finished.directory, "me/rower", "--license", "cc-by-4.0")
    assert told.exit_code == 0, told.stderr
    assert re.search(r"sent to http://127\.0\.0\.1:\d+/me/rower/commit/\w+", told.stdout)
    assert sorted(hub.repositories["me/rower"]["main"]) == sorted([".gitattributes", *FILES])
    assert hub.private["me/rower"] is True
    assert same(avcore.load_adapter("me/rower"), finished.run.model)
    hub.repositories["me/rower"]["main"]["evil.py"] = b"raise SystemExit"
    told = invoke("pull", "me/rower", "-o", tmp_path / "theirs")
    assert told.exit_code == 0, told.stderr
    assert sorted(contents(tmp_path / "theirs")) == sorted(FILES)
    assert not any("evil" in one for one in hub.asked)

    told = invoke("push", finished.directory, "me/rower", "--license", "mit")
    assert told.exit_code == 2
    assert "already. --force" in told.stderr
    push(finished.directory, "me/other", license="mit", private=False)
    assert hub.private["me/other"] is False


def test_a_branch_leaves_the_others_as_they_are(finished, hub, tmp_path):
    push(finished.directory, "me/rower", license="mit")
    main = dict(hub.repositories["me/rower"]["main"])
    push(finished.directory, "me/rower", license="cc0-1.0", revision="second")
    assert hub.repositories["me/rower"]["main"] == main
    pull("me/rower@second", tmp_path / "theirs")
    assert "license: cc0-1.0" in (tmp_path / "theirs" / "README.md").read_text()
    assert same(avcore.load_adapter("me/rower@second"), finished.run.model)
    with pytest.raises(AVCoreError, match="already"):
        push(finished.directory, "me/rower@second", license="mit")


def test_what_was_fetched_before_is_found_without_a_network(finished, hub, monkeypatch):
    push(finished.directory, "me/rower", license="mit")
    avcore.load_adapter("me/rower")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    count = len(hub.asked)
    assert same(avcore.load_adapter("me/rower"), finished.run.model)
    assert len(hub.asked) == count


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"adapter_config.json": b"{}", "adapter_model.safetensors": b""}, "it is an adapter of PEFT"),
        ({"model.safetensors": b"", "config.json": b"{}"}, "it is no adapter of avcore"),
        ({"adapter.json": b"{}", "adapter.safetensors": b"", "../../.bashrc": b"x"}, "outside of its folder"),
        ({"adapter.json": b"{}", "adapter.safetensors": b"", "/etc/cron.d/x": b"x"}, "outside of its folder"),
        ({"adapter.json": b"{}", "adapter.safetensors": b"", "a\\..\\b": b"x"}, "outside of its folder"),
        ({"adapter.json": b"[]", "adapter.safetensors": b""}, "format 1"),
    ],
)
def test_repositories_that_hold_something_else(hub, tmp_path, files, message):
    hub.repositories["me/odd"] = {"main": files}
    told = invoke("pull", "me/odd", "-o", tmp_path / "theirs")
    assert told.exit_code == 2
    assert message in told.stderr
    assert len(told.stderr.splitlines()) == 1
    assert not (tmp_path / "theirs").exists()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((403, "GatedRepo"), "it is gated. Ask for access"),
        ((401, "RepoNotFound"), "no such model repository (a data set or a space is none), or it is private"),
        ((403, "Forbidden"), "the hub does not allow it (403)"),
        ((500, "Broken"), "HfHubHTTPError"),
    ],
)
def test_what_the_hub_refuses_is_one_line(finished, hub, answer, message):
    hub.refused["me/rower"] = answer
    told = invoke("pull", "me/rower")
    assert told.exit_code == 2
    assert message in told.stderr
    assert len(told.stderr.splitlines()) == 1


def test_missing_repositories_revisions_and_tokens(finished, hub, monkeypatch):
    with pytest.raises(AVCoreError, match="no such model repository"):
        avcore.load_adapter("me/nothing")
    hub.repositories["me/rower"] = {"main": {}}
    with pytest.raises(AVCoreError, match="no revision 'v9'"):
        avcore.load_adapter("me/rower@v9")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(AVCoreError, match="There is no token to write to 'me/rower'"):
        push(finished.directory, "me/rower", license="mit")


@pytest.mark.parametrize("text", ["rower", "me/rower@", "me/../x", "me/rower@../x", "a/b/c", "me/ro wer", "runs\\x/y"])
def test_what_names_no_repository(text):
    with pytest.raises(AVCoreError, match="is no repository: write owner/name"):
        repository_of(text)


def test_an_unreachable_hub_is_one_line_within_seconds(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    started = time.monotonic()
    told = invoke("pull", "me/rower", "-o", tmp_path / "theirs")
    assert time.monotonic() - started < 5
    assert told.exit_code == 2
    assert told.stderr.startswith("avcore: error: Cannot fetch 'me/rower': the hub cannot be reached")
    assert len(told.stderr.splitlines()) == 1
