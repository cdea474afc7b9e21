# %% [markdown]
# # RA: where does an image differ from a healthy one?
#
# The reversed auto-encoder has learned what healthy T1 slices look like. It draws the healthy image that is
# nearest to a new one, and the map of where the two differ is its answer: no lesion was ever labelled. The
# weights ship with the bundle; they were trained on real slices (IXI). The brains here are virtual subjects
# of the embedded data, which the network has never seen, with lesions whose place is known.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import monai
import torch

from robustmed_monai.data import load_datalist
from robustmed_monai.data.slice_dataset import SliceDataset, slice_transforms
from robustmed_monai.inferers import AnomalyMapInferer
from robustmed_monai.utils.bundle import bundle_root

network = monai.bundle.load("ra", bundle_dir=str(Path(bundle_root("ra")).parent))

# %% [markdown]
# The embedded test slices at the height that the network knows: every healthy slice, and the largest lesion
# of each kind.

# %%
slices = [item for item in load_datalist(None, "test") if item["level"] >= 3]
loaded = SliceDataset(slices, slice_transforms(image_size=128)).tensors
images, masks = loaded["image"], loaded["mask"]
areas = masks.flatten(1).sum(1)

by_area = sorted((i for i, item in enumerate(slices) if not item["healthy"]), key=lambda i: areas[i])
largest = {slices[i]["kind"]: i for i in by_area}

# %% [markdown]
# One call gives the pseudo-healthy image and the anomaly map. The threshold is set on healthy slices: 1 %
# of their pixels pass.

# %%
chosen = list(largest.values())
healthy = images[[i for i, item in enumerate(slices) if item["healthy"]][::4]]
found = AnomalyMapInferer()(torch.cat([images[chosen], healthy]), network)
maps = found["anomaly_map"][: len(chosen)]
threshold = found["anomaly_map"][len(chosen) :].flatten().quantile(0.99)

# %% [markdown]
# Blue is the true lesion, orange what passes the threshold. Large lesions that are brighter or darker than
# what belongs there stand out. What only shifts tissue, or is thin, the map hardly sees, and some healthy
# sulci light up: the tables of [the model card](../../bundles/ra/docs/README.md) say how often.

# %%
columns = {
    "image": images[chosen],
    "pseudo-healthy": found["pred"],
    "anomaly map": maps,
    "true, found": images[chosen],
}
figure, axes = plt.subplots(
    len(chosen), len(columns), figsize=(5.2, 1.32 * len(chosen)), layout="constrained"
)
for column, (title, pictures) in enumerate(columns.items()):
    axes[0, column].set_title(title, fontsize=9)
    for row, kind in enumerate(largest):
        style = (
            {"cmap": "inferno", "vmax": 3 * threshold}
            if title == "anomaly map"
            else {"cmap": "gray", "vmax": 1}
        )
        axes[row, column].imshow(pictures[row, 0].T.numpy(), vmin=0, **style)
        axes[row, column].set(xticks=[], yticks=[])
        axes[row, 0].set_ylabel(kind.replace("_", " "), fontsize=9)
for row, i in enumerate(chosen):
    axes[row, 3].contour(masks[i, 0].T.numpy(), [0.5], colors="#0072b2", linewidths=1.2)
    axes[row, 3].contour(maps[row, 0].T.numpy(), [threshold], colors="#d55e00", linewidths=0.8)
figure.savefig("ra.png", dpi=90)
