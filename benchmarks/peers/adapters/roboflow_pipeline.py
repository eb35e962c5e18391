"""Roboflow's InferencePipeline around a model of one's own: the plain loop's, as the callback.

Its own models need a key and the network. Video decode, buffers, threads and dispatch are the
pipeline's; letterbox, run and NMS are the same as in ``plain``.
"""

from common import PlainDetector, Recorder, arguments
from inference import InferencePipeline

asked = arguments()
detect = PlainDetector(asked)
recorder = Recorder(asked, "inference", "onnxruntime", "opencv-python", "numpy")


def infer(video_frames):
    return [detect(frame.image) for frame in video_frames]


def sink(prediction, _video_frame):
    if not recorder.done and recorder.deliver(*prediction):
        pipeline.terminate()


pipeline = InferencePipeline.init_with_custom_logic(
    video_reference=asked.clip, on_video_frame=infer, on_prediction=sink
)
pipeline.start(use_main_thread=True)
pipeline.join()
recorder.finish()
