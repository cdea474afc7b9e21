"""Linear probes: really frozen networks, fitted layers, what they tell apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from robustmed_monai.data.probe_data import ProbeData, detection_data, detection_dataset, disease_data
from robustmed_monai.data.tensor_dataset import TensorDataset
from robustmed_monai.inferers.probe import LinearProbe, extract_features, fit_probe, fit_probes
from robustmed_monai.networks.unoranic import UNORANIC, AutoEncoder
from robustmed_monai.utils.errors import ConfigError, DataError

CHANNELS = (4, 4, 4, 8)


@pytest.fixture
def network() -> UNORANIC:
    torch.manual_seed(0)
    network = UNORANIC(1, 28, CHANNELS)
    # Statistics and gains as if it had been trained; untrained codes are all alike.
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network.train().reconstruct(torch.rand(32, 1, 28, 28))
    return network


class TestFrozen:
    def test_nothing_of_the_network_changes(self, network: UNORANIC) -> None:
        before = {k: v.clone() for k, v in network.state_dict().items()}
        network.train()
        x = torch.rand(40, 1, 28, 28)
        labels = torch.arange(40) % 2
        x[labels == 1] *= 0.3
        data = ProbeData({"training": x, "validation": x}, {"training": labels, "validation": labels})
        fit_probes(network, data)
        assert not network.training
        assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
        assert all(p.grad is None for p in network.parameters())

    def test_the_statistics_would_drift_in_training_mode(self, network: UNORANIC) -> None:
        # The trap that evaluation mode avoids: without gradients BatchNorm still learns.
        before = {k: v.clone() for k, v in network.state_dict().items()}
        with torch.no_grad():
            network.train().anatomy(torch.rand(40, 1, 28, 28))
        assert any(not torch.equal(v, before[k]) for k, v in network.state_dict().items())


class TestFeatures:
    def test_are_those_of_the_encoders(self, network: UNORANIC) -> None:
        x = torch.rand(7, 1, 28, 28)
        found = extract_features(network, x, batch_size=3)
        network.eval()
        with torch.no_grad():
            torch.testing.assert_close(found["anatomy"], network.anatomy(x), atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(
                found["characteristics"], network.characteristics(x), atol=1e-5, rtol=1e-4
            )
        assert torch.equal(found["both"], torch.cat([found["anatomy"], found["characteristics"]], 1))

    def test_an_auto_encoder_has_one_kind(self) -> None:
        found = extract_features(AutoEncoder(1, 28, CHANNELS), torch.rand(3, 1, 28, 28))
        assert found["anatomy"] is found["characteristics"] is found["both"]


class TestFit:
    @pytest.mark.parametrize("classes", [2, 3])
    def test_is_the_logistic_regression(self, rng: np.random.Generator, classes: int) -> None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        labels = np.arange(120) % classes
        x = 5 + rng.normal(size=(120, 6)) * [1, 2, 3, 4, 5, 6] + 2 * labels[:, None]
        pair = torch.from_numpy(x).float(), torch.from_numpy(labels)
        probe = fit_probe(pair, pair, strengths=[0.1])
        oracle = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000, tol=1e-8))
        expected = oracle.fit(x, labels).predict_proba(x)
        np.testing.assert_allclose(probe(pair[0]).numpy(), expected, atol=2e-3)

    def test_the_validation_chooses_the_strength(self, rng: np.random.Generator) -> None:
        # Many useless features: little regularisation fits the noise.
        labels = torch.arange(60) % 2
        x = torch.from_numpy(rng.normal(size=(120, 200))).float()
        x[:, 0] += 3 * labels.repeat(2)
        chosen = fit_probe((x[:60], labels), (x[60:], labels), strengths=(100.0, 1e-3))
        aucs = {}
        for strength in (100.0, 1e-3):
            probe = fit_probe((x[:60], labels), (x[60:], labels), strengths=(strength,))
            aucs[strength] = (
                (probe(x[60:])[labels == 1, 1][:, None] > probe(x[60:])[labels == 0, 1]).float()
            ).mean()
        assert aucs[chosen.strength] == max(aucs.values())

    def test_balanced_weights_move_the_border_to_the_rare_class(self, rng: np.random.Generator) -> None:
        labels = torch.from_numpy((np.arange(200) % 10 == 0).astype(np.int64))
        x = torch.from_numpy(rng.normal(size=(200, 1))).float() + 1.5 * labels[:, None]
        plain, balanced = (
            fit_probe((x, labels), (x, labels), strengths=(1.0,), class_weight=weight)
            for weight in (None, "balanced")
        )
        rare = labels == 1
        assert (balanced(x)[rare, 1] > 0.5).sum() > (plain(x)[rare, 1] > 0.5).sum()

    def test_a_feature_that_never_changes_does_no_harm(self) -> None:
        labels = torch.arange(20) % 2
        x = torch.stack([labels.float(), torch.full((20,), 7.0)], dim=1)
        probe = fit_probe((x, labels), (x, labels))
        assert torch.isfinite(probe.weight).all()
        assert probe.weight[1, 1] == 0
        assert ((probe(x)[:, 1] > 0.5) == (labels == 1)).all()

    def test_missing_classes_and_names_are_refused(self, network: UNORANIC) -> None:
        x = torch.rand(4, 3)
        with pytest.raises(DataError, match=r"training labels are \[0, 2\]"):
            fit_probe((x, torch.tensor([0, 2, 0, 2])), (x, torch.tensor([0, 1, 0, 1])))
        with pytest.raises(ConfigError, match="strengths: none"):
            fit_probe((x, torch.tensor([0, 1, 0, 1])), (x, torch.tensor([0, 1, 0, 1])), strengths=[])
        with pytest.raises(ConfigError, match=r"features \['code'\] are unknown"):
            fit_probes(network, ProbeData({}, {}), ["code"])

    def test_a_layer_of_two_rows_is_a_sigmoid(self) -> None:
        probe = LinearProbe(torch.tensor([[0.0], [2.0]]), torch.tensor([0.0, 1.0]))
        x = torch.tensor([[0.5]])
        torch.testing.assert_close(probe(x)[0, 1], torch.sigmoid(torch.tensor(2.0)))


class TestData:
    def _sets(self) -> tuple[TensorDataset, TensorDataset, TensorDataset]:
        def make(n: int) -> TensorDataset:
            return TensorDataset({"image": torch.rand(n, 1, 28, 28), "label": torch.arange(n) % 2})

        return make(6), make(5), make(4)

    def test_disease_is_the_clean_images(self) -> None:
        sets = self._sets()
        data = disease_data(*sets)
        assert torch.equal(data.images["test"], sets[2].tensors["image"])
        assert torch.equal(data.labels["training"], sets[0].tensors["label"])
        several = TensorDataset({"image": torch.rand(2, 1, 28, 28), "label": torch.zeros(2, 3)})
        with pytest.raises(DataError, match="one label per image"):
            disease_data(several, several, several)

    def test_corruption_is_drawn_once_and_for_all(self) -> None:
        sets = self._sets()
        one, two = (detection_data(*sets, draws=3, seed=4) for _ in range(2))
        assert {k: len(v) for k, v in one.images.items()} == {"training": 18, "validation": 5, "test": 4}
        for section, images in one.images.items():
            assert torch.equal(images, two.images[section])
            assert torch.equal(one.labels[section], two.labels[section])
        parts = one.images["training"].split(6)
        assert not torch.equal(parts[0], parts[1])
        shown = detection_dataset(sets[1], seed=5)
        assert torch.equal(shown.tensors["image"], one.images["validation"])

    def test_labels_say_what_was_done(self) -> None:
        data = TensorDataset({"image": torch.rand(80, 1, 28, 28)})
        drawn = detection_dataset(data, seed=0)
        rounded = (data.tensors["image"] * 255 + 0.5).floor() / 255
        changed = (drawn.tensors["image"] - rounded).abs().flatten(1).amax(1) > 0.01
        # A factor close to 1 changes little; a clean image nothing.
        assert not changed[drawn.tensors["label"] == 0].any()
        assert changed[drawn.tensors["label"] == 1].float().mean() > 0.8
