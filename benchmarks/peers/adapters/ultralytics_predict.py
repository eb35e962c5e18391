"""Ultralytics' own loop over a video: YOLO(model).predict(source, stream=True)."""

from common import Recorder, arguments
from ultralytics import YOLO

asked = arguments()
recorder = Recorder(asked, "ultralytics", "torch", "onnxruntime", "opencv-python", "numpy")
results = YOLO(asked.model, task="detect").predict(
    source=asked.clip,
    stream=True,
    conf=asked.conf,
    iou=asked.iou,
    max_det=asked.max_detections,
    imgsz=asked.size,
    device="cpu",
    verbose=False,
)
for result in results:
    boxes = result.boxes
    if recorder.deliver(boxes.xyxy.numpy(), boxes.conf.numpy(), boxes.cls.numpy()):
        break
recorder.finish()
