"""supervision's way: its frame generator, a session, its Detections with their NMS.

``sv.process_video`` adds the encoding of a video to this, which nobody else here does.
"""

import numpy as np
import supervision as sv
from common import PlainDetector, Recorder, arguments, candidates

asked = arguments()
detect = PlainDetector(asked)
recorder = Recorder(asked, "supervision", "onnxruntime", "opencv-python", "numpy")
for image in sv.get_video_frames_generator(asked.clip):
    output, place = detect.raw(image)
    xyxy, scores, classes = candidates(output, place, image.shape[:2], asked.conf)
    found = sv.Detections(xyxy=xyxy, confidence=scores, class_id=classes.astype(int))
    found = found.with_nms(threshold=asked.iou, class_agnostic=False)
    best = np.argsort(-found.confidence, kind="stable")[: asked.max_detections]
    if recorder.deliver(found.xyxy[best], found.confidence[best], found.class_id[best]):
        break
recorder.finish()
