# %% [markdown]
# # unORANIC: the anatomy without the corruption
#
# Two encoders look at an image: one is to see what it shows, the other how it shows it. What is drawn from
# the first code alone, the *anatomy image*, should look alike however the image was corrupted. Here the
# bundle's fast variant, `pca.json`, is trained on the embedded brains at 28 pixels for some seconds. The
# weights that ship with the bundle were trained on chest X-rays and retinas: `monai.bundle.load("unoranic",
# bundle_dir="bundles")`.

# %%
import matplotlib.pyplot as plt
import torch
from monai.bundle import ConfigWorkflow

from robustmed_monai.data import image_dataset
from robustmed_monai.transforms.corruption import corrupt, unoranic_corruption
from robustmed_monai.utils.bundle import bundle_root

configs = bundle_root("unoranic") + "/configs"
workflow = ConfigWorkflow(
    [f"{configs}/train.json", f"{configs}/pca.json"],
    logging_file=False,
    workflow_type="train",
    output_dir="out/unoranic",
    batch_size=35,
    max_epochs=25,
    val_interval=25,
    **{"network_def#latent_size": 96},
)
workflow.initialize()
workflow.run()
workflow.finalize()
network = workflow.network_def.eval()

# %% [markdown]
# Healthy test slices, each corrupted in one way of the twelve: how far is the input from the clean image,
# and how far is the anatomy image that is drawn from it?

# %%
clean = image_dataset("test").tensors["image"][:60]
names = ("invert", "solarize", "downscale", "gaussian_blur", "pixel_dropout", "gaussian_noise")
inputs = {"clean": clean}
for name in names:
    corruption = unoranic_corruption(name)
    inputs[name] = corrupt(
        clean, corruption, corruption.sample(clean.shape, torch.Generator().manual_seed(0))
    )

with torch.no_grad():
    anatomy = {name: network(images) for name, images in inputs.items()}
    full = {name: network.reconstruct(images) for name, images in inputs.items()}


def psnr(images: torch.Tensor) -> float:
    """Nearness to the clean images in dB, the mean over them."""
    return float(-10 * (images - clean).square().flatten(1).mean(1).clamp_min(1e-6).log10().mean())


for name in names:
    print(f"{name:15} {psnr(inputs[name]):5.1f} dB, anatomy image {psnr(anatomy[name]):5.1f} dB")

# %% [markdown]
# Where tones were turned round the anatomy image undoes it. What the input has lost, or fine noise beside
# which 96 numbers are coarse, it cannot win back: there the anatomy image is farther from the clean one
# than the input.

# %%
rows = {"input": inputs, "anatomy\nimage": anatomy, "full\nreconstruction": full}
figure, axes = plt.subplots(3, len(inputs), figsize=(1.05 * len(inputs), 3.4), layout="constrained")
for row, (title, images) in enumerate(rows.items()):
    axes[row, 0].set_ylabel(title, fontsize=8)
    for column, name in enumerate(inputs):
        axes[row, column].imshow(images[name][0, 0].T.numpy(), cmap="gray", vmin=0, vmax=1)
        axes[row, column].set(xticks=[], yticks=[])
        axes[0, column].set_title(name.replace("_", "\n"), fontsize=8)
        if row < 2 and name != "clean":
            axes[row, column].set_xlabel(f"{psnr(images[name]):.1f} dB", fontsize=8)
figure.savefig("unoranic.png", dpi=90)
