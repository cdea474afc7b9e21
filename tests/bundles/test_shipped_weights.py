"""What MONAI's own functions make of the shipped weights, and what a user's own weights need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import monai.bundle
import pytest
import torch
from monai.bundle import ConfigParser

from robustmed_monai.utils.bundle import bundles_dir
from robustmed_monai.utils.errors import WeightsError, original_error
from robustmed_monai.utils.weights import load_weights

NAMES = sorted(path.parents[1].name for path in Path(bundles_dir()).glob("*/models/model.pt"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_bundle_load_gives_the_network_of_inference_with_the_shipped_weights(name: str) -> None:
    root, parser = Path(bundles_dir()) / name, ConfigParser()
    parser.read_config(root / "configs" / "inference.json")
    # One bundle chooses its weights by what is installed.
    weights = Path(parser.get_parsed_content("weights"))
    more: dict[str, Any] = {"model_file": str(weights.relative_to(root)), "workflow_type": "inference"}
    network: Any = monai.bundle.load(name, bundle_dir=bundles_dir(), **more)
    shipped, own = load_weights(weights), network.state_dict()
    assert shipped.keys() == own.keys()
    assert all(torch.equal(own[key], tensor) for key, tensor in shipped.items())


class TestOwnWeights:
    @pytest.fixture
    def plain(self, tmp_path: Path) -> Path:
        """A state_dict as ``torch.save`` leaves it, with the prefix of DistributedDataParallel."""
        shipped = load_weights(Path(bundles_dir()) / "ra" / "models" / "model.pt")
        torch.save({f"module.{key}": tensor / 2 for key, tensor in shipped.items()}, tmp_path / "plain.pt")
        return tmp_path / "plain.pt"

    def _network(self, weights: Path, **more: bool) -> torch.nn.Module:
        parser = ConfigParser()
        parser.read_config(Path(bundles_dir()) / "ra" / "configs" / "inference.json")
        parser.update(
            {"weights": str(weights), "device": "cpu", **{f"network#{k}": v for k, v in more.items()}}
        )
        network: torch.nn.Module = parser.get_parsed_content("network")
        return network

    def test_the_advice_of_the_error_works(self, plain: Path) -> None:
        with pytest.raises(RuntimeError) as caught:
            self._network(plain)
        error = original_error(caught.value)
        assert isinstance(error, WeightsError)
        assert "--network#allow_unverified True for a bundle" in str(error)
        network = self._network(plain, allow_unverified=True)
        stored = torch.load(plain, weights_only=True)
        assert all(torch.equal(t, stored[f"module.{k}"]) for k, t in network.state_dict().items())
