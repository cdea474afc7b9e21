from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from robustmed_monai.utils.errors import WeightsError
from robustmed_monai.utils.files import read_json, sha256, write_json
from robustmed_monai.utils.weight_info import info_digest
from robustmed_monai.utils.weights import (
    load_info,
    load_into,
    load_weights,
    save_weights,
    verify_bundle_weights,
)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 3))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def test_what_is_saved_is_loaded_with_its_info_and_digest(tmp_path: Path) -> None:
    path = tmp_path / "models" / "model.pt"
    digest = save_weights(network().state_dict(), path, {"threshold": 0.125, "data": ["IXI"]})
    assert same(load_weights(path), network().state_dict())
    assert load_info(path) == {"threshold": 0.125, "data": ["IXI"]}
    assert digest == sha256(path) == read_json(path.with_suffix(".json"))["sha256"]
    assert sorted(p.name for p in path.parent.iterdir()) == ["model.json", "model.pt"]


def test_the_same_weights_give_the_same_file(tmp_path: Path) -> None:
    first = save_weights(network().state_dict(), tmp_path / "a.pt")
    assert save_weights(network().state_dict(), tmp_path / "b.pt") == first
    assert save_weights(network(1).state_dict(), tmp_path / "c.pt") != first


def test_every_tensor_is_stored_plain_with_its_own_memory(tmp_path: Path) -> None:
    big = torch.arange(100_000.0)
    state = {
        "view": big[:3],
        "meta": MetaTensor(torch.ones(2, 2)),
        "parameter": nn.Parameter(torch.zeros(2)),
        "last": torch.rand(1, 2, 3, 4).to(memory_format=torch.channels_last),
        "count": torch.tensor(7),
    }
    save_weights(state, tmp_path / "model.pt")
    loaded = load_weights(tmp_path / "model.pt")
    assert (tmp_path / "model.pt").stat().st_size < 5_000
    assert all(type(v) is torch.Tensor and v.is_contiguous() for v in loaded.values())
    assert all(torch.equal(loaded[k], torch.as_tensor(v)) for k, v in state.items())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_removed_on_both_ways(tmp_path: Path, prefix: str) -> None:
    plain = network().state_dict()
    wrapped = {prefix + k: v for k, v in plain.items()}
    save_weights(wrapped, tmp_path / "saved.pt")
    assert same(load_weights(tmp_path / "saved.pt"), plain)
    torch.save(wrapped, tmp_path / "foreign.pt")
    loaded = load_into(network(1), tmp_path / "foreign.pt", allow_unverified=True)
    assert same(loaded.state_dict(), plain)


def test_wrapped_and_partly_compiled_networks_load_plain_weights(tmp_path: Path) -> None:
    save_weights(network().state_dict(), tmp_path / "model.pt")
    parallel = nn.DataParallel(network(1))
    load_into(parallel, tmp_path / "model.pt")
    assert same(parallel.module.state_dict(), network().state_dict())
    inner = network(1)
    inner[0] = torch.compile(inner[0])  # type: ignore[assignment]
    assert "0._orig_mod.weight" in inner.state_dict()
    load_into(inner, tmp_path / "model.pt")
    assert torch.equal(inner.state_dict()["0._orig_mod.weight"], network().state_dict()["0.weight"])


def test_a_submodule_that_is_called_module_keeps_its_name(tmp_path: Path) -> None:
    named = nn.ModuleDict({"module": nn.Linear(2, 2), "head": nn.Linear(2, 1)})
    save_weights(named.state_dict(), tmp_path / "model.pt")
    assert set(load_weights(tmp_path / "model.pt")) == set(named.state_dict())


def test_names_that_coincide_without_prefix_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"model\.pt: two names differ only by the prefix"):
        save_weights({"_orig_mod.a": torch.ones(1), "a": torch.ones(1)}, tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "no weights"),
        ({"a": 1.0}, "'a' is a float"),
        ({"net": {"a": torch.ones(1)}}, "'net' is a dict"),
        ({1: torch.ones(1)}, "1 is a Tensor"),
        ({"a": torch.tensor([1.0, float("nan")])}, "'a' has NaN or infinite"),
        ({"a": torch.tensor(float("inf"))}, "'a' has NaN or infinite"),
        ({"a": torch.eye(2).to_sparse()}, "'a' is not a dense tensor"),
        ({"a": torch.ones(2, device="meta")}, "'a' is not a dense tensor"),
    ],
)
def test_what_is_no_finite_tensor_is_not_saved(
    tmp_path: Path, state: dict[str, object], message: str
) -> None:
    with pytest.raises(WeightsError, match=message):
        save_weights(state, tmp_path / "model.pt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [torch.ones(1), float("nan"), object()])
def test_info_must_be_json(tmp_path: Path, value: object) -> None:
    save_weights(network().state_dict(), tmp_path / "model.pt", {"a": 1})
    with pytest.raises(WeightsError, match=r"model\.pt: info is not JSON"):
        save_weights(network(1).state_dict(), tmp_path / "model.pt", {"a": value})
    assert same(load_weights(tmp_path / "model.pt"), network().state_dict())


def test_without_a_digest_a_file_is_only_read_on_request(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    digest = save_weights(network().state_dict(), path)
    path.with_suffix(".json").unlink()
    with pytest.raises(
        WeightsError, match=r"nothing says what its sha256 should be; put model\.json beside it"
    ):
        load_weights(path)
    assert same(load_weights(path, allow_unverified=True), network().state_dict())
    assert same(load_weights(path, digest.upper()), network().state_dict())


@pytest.mark.parametrize("allow_unverified", [False, True])
def test_a_digest_that_does_not_match_is_always_refused(tmp_path: Path, allow_unverified: bool) -> None:
    path = tmp_path / "model.pt"
    save_weights(network().state_dict(), path)
    with pytest.raises(WeightsError, match=r"model\.pt: was altered: its sha256 is .*, expected is 0000"):
        load_weights(path, "0" * 64, allow_unverified=allow_unverified)
    torch.save(network(1).state_dict(), path)
    with pytest.raises(WeightsError, match="was altered"):
        load_weights(path, allow_unverified=allow_unverified)
    with pytest.raises(WeightsError, match="was altered"):
        load_info(path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"sha256": "12", "info": {}}', '{"sha256": 3}', '{"sha256": "%s"}' % ("a" * 64)]
)
def test_a_damaged_json_is_refused_and_can_be_saved_over(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model.pt"
    save_weights(network().state_dict(), path)
    path.with_suffix(".json").write_text(text)
    with pytest.raises(WeightsError, match=r"model\.json"):
        load_weights(path)
    save_weights(network(1).state_dict(), path, {"new": True})
    assert load_info(path) == {"new": True}


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"model\.pt: no such file"):
        load_weights(tmp_path / "model.pt")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_weights(tmp_path)


def test_missing_extra_and_wrongly_shaped_weights_are_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    state = network().state_dict()
    del state["1.weight"]
    state["extra"] = torch.ones(1)
    state["2.bias"] = torch.ones(3)
    save_weights(state, path)
    target = network(1)
    with pytest.raises(WeightsError) as caught:
        load_into(target, path)
    message = str(caught.value)
    assert "does not fit Sequential" in message
    for part in ("1 missing: 1.weight", "1 unexpected: extra", "2.bias (3,) instead of (1,)"):
        assert part in message
    assert same(target.state_dict(), network(1).state_dict())


def test_long_lists_of_names_are_shortened(tmp_path: Path) -> None:
    save_weights({f"w{i}": torch.ones(1) for i in range(9)}, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match=r"9 unexpected: w0, w1, w2, w3, w4, \.\.\."):
        load_into(nn.Identity(), tmp_path / "model.pt")


def test_a_reader_between_two_writes_gets_a_pair_that_belongs_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.pt"
    save_weights(network().state_dict(), path, {"run": 0})
    read = Path.read_bytes

    def read_and_be_overtaken(self: Path) -> bytes:
        data = read(self)
        monkeypatch.setattr(Path, "read_bytes", read)
        save_weights(network(1).state_dict(), path, {"run": 1})
        return data

    monkeypatch.setattr(Path, "read_bytes", read_and_be_overtaken)
    assert load_info(path) == {"run": 1}
    assert same(load_weights(path), network(1).state_dict())


def test_leftover_previous_entry_is_gone_after_a_complete_save(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    for run in range(3):
        save_weights(network(run).state_dict(), path, {"run": run})
    assert set(json.loads(path.with_suffix(".json").read_text())) == {"sha256", "info"}


def test_a_failure_to_tidy_up_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.pt"
    save_weights(network().state_dict(), path, {"run": 0})
    replace, calls = os.replace, []

    def third_fails(source: str, target: str) -> None:
        calls.append(target)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", third_fails)
    save_weights(network(1).state_dict(), path, {"run": 1})
    assert len(calls) == 3
    assert load_info(path) == {"run": 1}
    assert same(load_weights(path), network(1).state_dict())


def bundle(root: Path) -> Path:
    digest = save_weights(network().state_dict(), root / "models" / "model.pt", {"epoch": 3})
    entry = {"sha256": digest, "info_sha256": info_digest({"epoch": 3})}
    write_json(root / "configs" / "metadata.json", {"version": "1", "weights": {"model.pt": entry}})
    return root


def test_the_weights_of_a_bundle_are_verified(tmp_path: Path) -> None:
    root = bundle(tmp_path)
    assert verify_bundle_weights(root) == {"model.pt": sha256(root / "models" / "model.pt")}
    (root / "models" / "model.json").unlink()
    assert list(verify_bundle_weights(root)) == ["model.pt"]


def test_an_altered_missing_or_unlisted_file_of_a_bundle_is_refused(tmp_path: Path) -> None:
    root = bundle(tmp_path)
    (root / "models" / "model.onnx").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"model\.onnx: is not listed in .*metadata\.json"):
        verify_bundle_weights(root)
    (root / "models" / "model.onnx").unlink()
    model = root / "models" / "model.pt"
    intact = model.read_bytes()
    model.write_bytes(intact[:-1] + b"x")
    with pytest.raises(WeightsError, match=r"model\.pt: was altered"):
        verify_bundle_weights(root)
    model.unlink()
    with pytest.raises(WeightsError, match=r"model\.pt: no such file"):
        verify_bundle_weights(root)
    model.write_bytes(intact)
    write_json(model.with_suffix(".json"), {"sha256": "0" * 64, "info": {}})
    with pytest.raises(WeightsError, match="was altered"):
        verify_bundle_weights(root)


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        [],
        {"weights": {}},
        {"weights": {"model.pt": "abc"}},
        {"weights": {"model.pt": {"sha256": "abc"}}},
        {"weights": {"../model.pt": {"sha256": "0" * 64}}},
    ],
)
def test_metadata_without_usable_digests_are_refused(tmp_path: Path, metadata: object) -> None:
    root = bundle(tmp_path)
    write_json(root / "configs" / "metadata.json", metadata)
    with pytest.raises(WeightsError, match=r"metadata\.json: "):
        verify_bundle_weights(root)


def test_the_digest_of_the_info_must_be_listed(tmp_path: Path) -> None:
    root = bundle(tmp_path)
    digest = sha256(root / "models" / "model.pt")
    write_json(root / "configs" / "metadata.json", {"weights": {"model.pt": {"sha256": digest}}})
    with pytest.raises(WeightsError, match=f'add "info_sha256": "{info_digest({"epoch": 3})}"'):
        verify_bundle_weights(root)


def test_missing_metadata_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"metadata\.json: no such file"):
        verify_bundle_weights(tmp_path)


def test_info_is_empty_where_nothing_lies_beside_the_weights(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "mine.pt")
    assert load_info(tmp_path / "mine.pt") == {}
    with pytest.raises(WeightsError, match="--network#allow_unverified True"):
        load_into(network(1), tmp_path / "mine.pt")
    load_into(network(1), tmp_path / "mine.pt", allow_unverified=True)


def test_a_forged_pair_or_info_in_a_bundle_is_refused(tmp_path: Path) -> None:
    root = bundle(tmp_path)
    model = root / "models" / "model.pt"
    write_json(model.with_suffix(".json"), {"sha256": sha256(model), "info": {"epoch": 4}})
    with pytest.raises(WeightsError, match=r"model\.json: was altered: the digest of its info"):
        load_info(model)
    save_weights({k: v * 0 for k, v in network().state_dict().items()}, model, {"epoch": 3})
    with pytest.raises(WeightsError, match=r"model\.pt: was altered: .*metadata\.json has"):
        load_weights(model)
    # The same pair elsewhere is a user's own.
    save_weights(network().state_dict(), tmp_path / "out" / "model.pt", {"epoch": 4})
    assert load_info(tmp_path / "out" / "model.pt") == {"epoch": 4}


def test_the_metadata_of_a_bundle_give_the_digest_where_no_json_does(tmp_path: Path) -> None:
    model = bundle(tmp_path) / "models" / "model.pt"
    model.with_suffix(".json").unlink()
    assert same(load_weights(model), network().state_dict())


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"calibration": "hello"}, r"model\.pt: info 'calibration' has no thresholds"),
        ({"calibration": {"thresholds": {}}}, "'calibration' has no thresholds"),
        ({"calibration": {"thresholds": {"0.05": "high"}}}, "'calibration' has thresholds that are no num"),
        ({"calibration": {"thresholds": {"5": 0.1}}}, "'calibration' has thresholds that are no numbers"),
        ({"calibration": {"thresholds": {"low": 0.1}}}, "'calibration' names false positive rates"),
        ({"calibration": {"thresholds": {"0.01": 0.2, "0.05": 1e9}}}, "do not fall with the rate"),
        ({"contrast": "t1w"}, "'contrast' is 't1w', none of T1, FLAIR and T2"),
        ({"training_statistics": [1]}, "'training_statistics' is a list"),
        ({"training_statistics": {"brightness": {"mean": None}}}, "'brightness' that is not made of numbers"),
        ({"training_statistics": {"brightness": {"mean": 0.5, "std": -1}}}, "a standard deviation below 0"),
        ({"training_statistics": {"appearance": {"std": [0.1, -1]}}}, "a standard deviation below 0"),
        ({"training_statistics": {"appearance": {"mean": [0.1, "b"]}}}, "is not made of numbers"),
        ({"training_statistics": {"contrast": {"low": 1, "high": 0}}}, "'contrast' with an empty range"),
        ({"classifier": {"training_statistics": {"contrast": {"low": 1}}}}, "with an empty range"),
        ({"spacing": 0}, "'spacing' is no size in mm"),
        ({"spacing": [1.0, "2"]}, "'spacing' is no size in mm"),
    ],
)
def test_info_that_no_training_leaves_is_refused(
    tmp_path: Path, info: dict[str, object], message: str
) -> None:
    save_weights(network().state_dict(), tmp_path / "model.pt", info)
    with pytest.raises(WeightsError, match=message):
        load_info(tmp_path / "model.pt")
