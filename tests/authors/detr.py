"""DETR's kin with random weights, answered and read by transformers 5.23.0 (torch 2.13.0, CPU).

Writes detr.npz and deim.npz beside it. Run in an environment that has transformers, timm and torch:
``python tests/authors/detr.py``. The models are small (two layers), with random weights; their
answers are read with each family's own ``post_process_object_detection``. Where torchvision's
compiled operators do not load, declaring them is enough, for they are not called.
"""

import types
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
HW = (64, 96)
CONF = 0.05

library = torch.library.Library("torchvision", "FRAGMENT")
if not hasattr(torch.ops.torchvision, "nms"):
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import transformers as tf  # noqa: E402
from transformers.models.detr.image_processing_detr import DetrImageProcessor  # noqa: E402
from transformers.models.rf_detr.image_processing_rf_detr import RfDetrImageProcessor  # noqa: E402
from transformers.models.rt_detr.image_processing_rt_detr import RTDetrImageProcessor  # noqa: E402


def detr():
    backbone = tf.ResNetConfig(depths=[1, 1, 1, 1], hidden_sizes=[16, 16, 16, 16], embedding_size=16)
    return tf.DetrForObjectDetection(
        tf.DetrConfig(
            backbone_config=backbone, use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
            num_queries=30, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, num_labels=91,
        )
    )  # fmt: skip


def small(config_class, **more):
    return config_class(
        d_model=32, encoder_hidden_dim=32, encoder_layers=1, encoder_ffn_dim=32, decoder_layers=2,
        decoder_ffn_dim=32, num_queries=30, num_labels=80, encoder_attention_heads=2,
        decoder_attention_heads=2, decoder_in_channels=[32, 32, 32], **more,
    )  # fmt: skip


def answers(model, seed):
    """Logits and boxes for noise, with class biases at random so that they differ."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module.out_features in (80, 92):
            torch.nn.init.normal_(module.weight, std=0.3)
            torch.nn.init.normal_(module.bias, mean=-1.0)
    picture = torch.rand(1, 3, *HW)
    with torch.no_grad():
        return model.eval()(pixel_values=picture)


def random_answers(queries, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(1, queries, columns, generator=generator) - 3
    return types.SimpleNamespace(
        logits=logits, pred_boxes=torch.rand(1, queries, 4, generator=generator) * 0.5 + 0.2
    )


def read(processor_class, outputs, threshold=CONF):
    processor = object.__new__(processor_class)
    (found,) = processor_class.post_process_object_detection(
        processor, outputs, threshold=threshold, target_sizes=torch.tensor([HW])
    )
    return {name: value.numpy() for name, value in found.items()}


def main():
    saved = {"hw": np.array(HW), "conf": np.array(CONF)}
    cases = {
        "detr": (DetrImageProcessor, answers(detr(), 1)),
        "rtdetr": (RTDetrImageProcessor, answers(tf.RTDetrForObjectDetection(small(tf.RTDetrConfig)), 2)),
        "dfine": (RTDetrImageProcessor, answers(tf.DFineForObjectDetection(small(tf.DFineConfig)), 3)),
        "rfdetr": (RfDetrImageProcessor, random_answers(40, 91, 4)),
        "random_detr": (DetrImageProcessor, random_answers(40, 21, 5)),
    }
    for name, (processor, outputs) in cases.items():
        found = read(processor, outputs)
        saved[f"{name}_logits"], saved[f"{name}_boxes"] = outputs.logits.numpy(), outputs.pred_boxes.numpy()
        saved |= {f"{name}_expected_{part}": value for part, value in found.items()}
        print(name, outputs.logits.shape, {part: value.shape for part, value in found.items()})
    np.savez_compressed(HERE / "detr.npz", **saved)

    outputs = cases["rtdetr"][1]
    everything, found = (read(RTDetrImageProcessor, outputs, threshold) for threshold in (-1.0, CONF))
    raw = {f"raw_{part}": value[None] for part, value in everything.items()}
    expected = {f"expected_{part}": value for part, value in found.items()}
    np.savez_compressed(HERE / "deim.npz", hw=np.array(HW), conf=np.array(CONF), **raw, **expected)


if __name__ == "__main__":
    main()
