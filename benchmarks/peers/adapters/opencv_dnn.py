"""OpenCV alone: cv2.VideoCapture, cv2.dnn with its defaults on the CPU, its NMS."""

import cv2
from common import Recorder, arguments, blob_of, pictures, postprocess

asked = arguments()
net = cv2.dnn.readNetFromONNX(asked.model)
recorder = Recorder(asked, "opencv-python", "numpy")
for image in pictures(asked.clip):
    blob, place = blob_of(image, asked.size)
    net.setInput(blob)
    if recorder.deliver(*postprocess(net.forward(), place, image, asked)):
        break
recorder.finish()
