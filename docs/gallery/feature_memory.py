# %% [markdown]
# # Feature memory: has anything like this been seen at this place?
#
# Nothing is trained. The features of a fixed network, here the encoder of RA, are kept for healthy images,
# place by place; a new image is abnormal where its features are far from all of these. Give it your own
# healthy images and it is ready in a minute: `robustmed train feature_memory --dataset_dir FOLDER`.

# %%
from pathlib import Path

import matplotlib.pyplot as plt

from robustmed_monai.data import load_datalist
from robustmed_monai.data.slice_dataset import SliceDataset, slice_transforms
from robustmed_monai.inferers import MemoryInferer
from robustmed_monai.networks.feature_memory import FeatureMemory, backbone
from robustmed_monai.utils.bundle import bundle_root

weights = Path(bundle_root("ra")) / "models" / "model.pt"
memory = FeatureMemory(backbone("ra", weights))

# %% [markdown]
# The memory is filled with the healthy training slices of the embedded virtual subjects.

# %%
healthy = [item for item in load_datalist(None, "training") if item["level"] >= 2]
memory.remember(memory.features(SliceDataset(healthy, slice_transforms(image_size=128)).tensors["image"]))

# %% [markdown]
# Subjects that it has not seen: the largest lesion of each kind, and a threshold that 1 % of the pixels of
# healthy slices pass.

# %%
slices = [item for item in load_datalist(None, "test") if item["level"] >= 3]
loaded = SliceDataset(slices, slice_transforms(image_size=128)).tensors
images, masks = loaded["image"], loaded["mask"]
areas = masks.flatten(1).sum(1)
by_area = sorted((i for i, item in enumerate(slices) if not item["healthy"]), key=lambda i: areas[i])
largest = {slices[i]["kind"]: i for i in by_area}
chosen = list(largest.values())

maps = MemoryInferer()(images[chosen], memory)["anomaly_map"]
normal = images[[i for i, item in enumerate(slices) if item["healthy"]][::4]]
threshold = MemoryInferer()(normal, memory)["anomaly_map"].flatten().quantile(0.99)

# %% [markdown]
# Blue is the true lesion, orange what passes the threshold. The map is coarse, a cell is 4 pixels wide. Large
# dark lesions stand out; white matter that is too bright, a thin rim and wide ventricles this small memory
# does not see. How often it is right on real lesions is in
# [the model card](../../bundles/feature_memory/docs/README.md).

# %%
columns = {"image": images[chosen], "anomaly map": maps, "true, found": images[chosen]}
figure, axes = plt.subplots(
    len(chosen), len(columns), figsize=(4.0, 1.32 * len(chosen)), layout="constrained"
)
for column, (title, pictures) in enumerate(columns.items()):
    axes[0, column].set_title(title, fontsize=9)
    for row, kind in enumerate(largest):
        style = (
            {"cmap": "inferno", "vmax": 2 * threshold}
            if title == "anomaly map"
            else {"cmap": "gray", "vmax": 1}
        )
        axes[row, column].imshow(pictures[row, 0].T.numpy(), vmin=0, **style)
        axes[row, column].set(xticks=[], yticks=[])
        axes[row, 0].set_ylabel(kind.replace("_", " "), fontsize=9)
for row in range(len(chosen)):
    axes[row, 2].contour(masks[chosen[row], 0].T.numpy(), [0.5], colors="#0072b2", linewidths=1.2)
    axes[row, 2].contour(maps[row, 0].T.numpy(), [threshold], colors="#d55e00", linewidths=0.8)
figure.savefig("feature_memory.png", dpi=90)
