"""The loop that everybody writes first: cv2.VideoCapture, letterbox, session.run, NMS."""

from common import PlainDetector, Recorder, arguments, pictures

asked = arguments()
detect = PlainDetector(asked)
recorder = Recorder(asked, "onnxruntime", "opencv-python", "numpy")
for image in pictures(asked.clip):
    if recorder.deliver(*detect(image)):
        break
recorder.finish()
