# %% [markdown]
# # pchVAE: what is coarse, what is detail, and what is neither
#
# A VAE that explains a slice twice: a *high-level* component says what it can from a coarse code, a signed
# *low-level* one adds the detail, and the error of their sum says what does not belong there. Here a small
# one is trained on the embedded brains for a few seconds, with a light weight on the codes (`beta`) so that
# it uses both so soon; the bundle's `train.json` without these overrides is the full one.

# %%
import matplotlib.pyplot as plt
from monai.bundle import ConfigWorkflow

from robustmed_monai.data import load_datalist
from robustmed_monai.data.brain_slices import brain_dataset
from robustmed_monai.inferers import ElboInferer
from robustmed_monai.utils.bundle import bundle_root

config = bundle_root("pchvae") + "/configs/train.json"
workflow = ConfigWorkflow(
    config,
    logging_file=False,
    workflow_type="train",
    output_dir="out/pchvae",
    image_size=32,
    channels=[16, 32, 32, 64],
    learning_rate=0.002,
    beta=0.2,
    max_epochs=45,
    val_interval=45,
)
workflow.initialize()
workflow.run()
workflow.finalize()
network = workflow.network_def

# %% [markdown]
# Test slices with a lesion whose place is known. `ElboInferer` gives components, scores and maps of a
# batch.

# %%
items = [item for item in load_datalist(None, "test") if not item["healthy"]]
test = brain_dataset(items, workflow.parser.get_parsed_content("train#preprocessing"))
images, masks, brain, index = (test.tensors[key] for key in ("image", "mask", "brain", "index"))
found = ElboInferer()(images, network)
residual = found["map_residual"]

inside, outside = (residual[region].mean() for region in (masks > 0, (brain > 0) & (masks == 0)))
print(f"mean error: {inside:.2f} in lesions, {outside:.2f} in the rest of the brain")

# %% [markdown]
# The largest lesion of each kind, outlined. x_high is the blurred brain that the coarse code can say, x_low
# the detail beside it, a part of dark lesions too. What neither can say stays in the map: lesions, and fine
# folds. The colours of a column mean the same in all rows.

# %%
by_area = masks.flatten(1).sum(1).argsort()
chosen = {test.data[int(index[i])]["kind"].replace("_", " "): int(i) for i in by_area}
columns = {
    "image": (images, "gray", -1.5, 1.5),
    "x_high": (found["high"], "gray", -1.5, 1.5),
    "x_low": (found["low"], "RdBu_r", -0.8, 0.8),
    "x_high + x_low": (found["pred"], "gray", -1.5, 1.5),
    "|x - x_sum|": (residual, "inferno", 0, 2),
}
figure, axes = plt.subplots(
    len(chosen), len(columns), figsize=(5.6, 1.18 * len(chosen)), layout="constrained"
)
for column, (title, (pictures, colours, low, high)) in enumerate(columns.items()):
    axes[0, column].set_title(title, fontsize=9)
    for row, (kind, i) in enumerate(chosen.items()):
        axes[row, 0].set_ylabel(kind, fontsize=8)
        axes[row, column].imshow(pictures[i, 0].T.numpy(), cmap=colours, vmin=low, vmax=high)
        axes[row, column].set(xticks=[], yticks=[])
        if column in (0, len(columns) - 1):
            axes[row, column].contour(masks[i, 0].T.numpy(), [0.5], colors="#009e73", linewidths=0.8)
figure.savefig("pchvae.png", dpi=90)
