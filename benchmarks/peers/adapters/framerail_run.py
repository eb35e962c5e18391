"""framerail as ``framerail run CLIP --jsonl FILE`` runs it: every label, every frame a line of JSON.

The detections that are compared are read back from that file, in which no frame may be missing or
out of order. What ``framerail tune`` found counts only where the options say ``"profile": true``; then it
has to be there.
"""

import json
from pathlib import Path

from common import Recorder, arguments

from pipeline import Pipeline, __version__
from pipeline.memory import set_malloc
from pipeline.sinks.base import Sink

set_malloc()  # as the command does
asked = arguments()
recorder = Recorder(asked, "onnxruntime", "opencv-python", "av", "numpy")


class Clock(Sink):
    def write(self, result, dropped_before):
        recorder.tick()
        if recorder.done:
            line.stop()

    def close(self):
        pass

    def abort(self):
        pass


jsonl = Path(asked.detections).with_suffix(".jsonl")
options = {
    "model": asked.model,
    "conf_threshold": asked.conf,
    "iou_threshold": asked.iou,
    "max_detections": asked.max_detections,
    "jsonl": str(jsonl),
    "provider": "cpu",
    "profile": False,
    **asked.options,
}
with Pipeline(asked.clip, sinks=[Clock()], **options) as line:
    if options["profile"] and line.profile is None:
        raise SystemExit("there is no profile of this model for this machine; make it: framerail tune")
    line.run()

with jsonl.open(encoding="utf-8") as lines:
    for number, text in enumerate(lines):
        record = json.loads(text)
        if (record["frame"], record["dropped_before"]) != (number, 0):
            raise SystemExit(f"line {number} is of frame {record['frame']}: lost or out of order")
        found = record["detections"]
        recorder.keep(
            number,
            [each["box"] for each in found],
            [each["confidence"] for each in found],
            [each["class_id"] for each in found],
        )
found = {}
if (profile := line.profile) is not None:
    settings = dict(profile.settings)
    if "model" in settings:  # a copy: its folder is nobody's business
        settings["model"] = Path(settings["model"]).name
    kept = {key: getattr(profile, key) for key in ("ap_loss", "truth", "copy_sha256")}
    found = {"profile": {**settings, **kept}}
recorder.finish(framerail=__version__, **found)
