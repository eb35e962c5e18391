"""Image to blob and boxes back; the only NMS; drawing. Boxes are xyxy everywhere."""
