"""Small networks that between them have every layer type and option that is converted.

``KNOWN`` says which programs can run each: Debian's libdarknet ("darknet"), OpenCV 4's importer ("opencv").
"""

from __future__ import annotations

NET = "[net]\nbatch=1\nsubdivisions=1\nwidth={w}\nheight={h}\nchannels=3\n"


def _conv(filters, size=3, activation="leaky", norm=1, stride=1, pad=1, **more):
    rest = "".join(f"{key}={value}\n" for key, value in more.items())
    return (
        f"[convolutional]\nbatch_normalize={norm}\nfilters={filters}\nsize={size}\nstride={stride}\n"
        f"pad={pad}\nactivation={activation}\n{rest}"
    )


def _head(anchors, classes):
    return _conv(anchors * (5 + classes), 1, "linear", norm=0)


YOLO = "[yolo]\nmask = {mask}\nanchors = 10,14,  23,27,  37,58,  81,82\nclasses={classes}\nnum=4\n{more}"
REGION = "[region]\nanchors = 0.57, 0.67, 1.87, 2.06\nclasses=3\ncoords=4\nnum=2\n{more}"

NETS = {
    # v3-tiny: both pools, an odd side, route, upsample, two heads with masks.
    "v3": NET.format(w=72, h=40)
    + "# a comment\n"
    + _conv(4, stride=2)
    + "[maxpool]\nsize=2\nstride=2\n"
    + _conv(6)
    + "[maxpool]\nsize=2\nstride=2\n"
    + _conv(8)
    + "[maxpool]\nsize=2\nstride=1\n"
    + "[maxpool]\nsize=5\nstride=1\n"
    + _head(2, 3)
    + YOLO.format(mask="2,3", classes=3, more="jitter=.3\n")
    + "[route]\nlayers = -4\n"
    + _conv(4, 1)
    + "[upsample]\nstride=2\n"
    + "[route]\nlayers = -1, 2\n"
    + _head(2, 3)
    + YOLO.format(mask="0,1", classes=3, more=""),
    # v2: reorg, a route of two, region with softmax.
    "v2": NET.format(w=48, h=32)
    + _conv(4)
    + "[maxpool]\nsize=2\nstride=2\n"
    + _conv(8)
    + "[maxpool]\nsize=2\nstride=2\n"
    + _conv(6)
    + "[route]\nlayers=-3\n"
    + "[reorg]\nstride=2\n"
    + "[route]\nlayers=-1,-3\n"
    + _head(2, 3)
    + REGION.format(more="softmax=1\n"),
    "v2-sigmoid": NET.format(w=16, h=8)
    + _conv(8, stride=2)
    + _head(2, 3)
    + "[reorg]\nstride=2\nreverse=1\n"
    + _conv(16, 1, "linear", norm=0)
    + REGION.format(more="softmax=0\n"),
    # v1: local, connected, detection.
    "v1": NET.format(w=21, h=14)
    + "[crop]\ncrop_width=18\ncrop_height=12\nflip=0\nangle=0\nsaturation=1\nexposure=1\n"
    # As large as this, or Darknet's [local] overruns its workspace.
    + _conv(2)
    + "[local]\nsize=3\nstride=1\npad=1\nfilters=3\nactivation=leaky\n"
    + "[local]\nsize=2\nstride=2\npad=0\nfilters=4\nactivation=leaky\n"
    + "[dropout]\nprobability=.5\n"
    + "[connected]\noutput=117\nactivation=linear\n"
    + "[detection]\nclasses=3\ncoords=4\nrescore=1\nside=3\nnum=2\nsoftmax=0\nsqrt=1\n",
    "v1-softmax": NET.format(w=12, h=12)
    + _conv(2, stride=2)
    + "[connected]\noutput=32\nactivation=logistic\nbatch_normalize=1\n"
    + "[detection]\nclasses=3\ncoords=4\nside=2\nnum=1\nsoftmax=1\nsqrt=0\n",
    # A classifier: groups, a shortcut to another shape, pools of both kinds, temperature.
    "classifier": NET.format(w=18, h=14)
    + "[crop]\ncrop_width=16\ncrop_height=12\nnoadjust=1\n"
    + _conv(4)
    + _conv(8, 3, "relu", groups=2)
    + _conv(8, 3, "logistic", groups=8, stride=2)
    + "[shortcut]\nfrom=-3\nactivation=leaky\n"
    + _conv(4, 3, "linear")
    + "[shortcut]\nfrom=-2\nactivation=linear\n"
    + "[maxpool]\nsize=3\nstride=2\npadding=1\n"
    + _conv(7, 1, "linear", norm=0)
    + "[avgpool]\n"
    + "[softmax]\ngroups=1\ntemperature=1.5\n"
    + "[cost]\ntype=sse\n",
    "connected": NET.format(w=8, h=6)
    + _conv(3, 3, "ramp", pad=0, padding=1, stride=2)
    + "[connected]\noutput=10\nactivation=relu\nbatch_normalize=1\n"
    + "[connected]\noutput=12\nactivation=tanh\n"
    + "[softmax]\ngroups=3\n",
    "activations": NET.format(w=12, h=8)
    + "".join(
        _conv(4, 3, name, norm=0)
        for name in ["loggy", "elu", "relie", "ramp", "plse", "hardtan", "lhtan", "tanh", "logistic", "selu"]
    )
    + "[activation]\nactivation=leaky\n"
    + "[connected]\noutput=5\nactivation=linear\n[softmax]\n",
    # v4 and Yolo-Fastest: what AlexeyAB's Darknet has beside.
    "v4": NET.format(w=48, h=32)
    + _conv(8, 3, "mish", stride=2)
    + "[route]\nlayers=-1\ngroups=2\ngroup_id=1\n"
    + _conv(4, 3, "swish")
    + "[route]\nlayers=-1,-2\n"
    + _conv(8, 3, "mish", stride=2)
    + "[maxpool]\nsize=3\nstride=1\n"
    + "[route]\nlayers=-2\n"
    + "[maxpool]\nsize=5\nstride=1\n"
    + "[route]\nlayers=-1,-3,-4\n"
    + _conv(6, 1, "relu")
    + _head(3, 2)
    + YOLO.format(mask="0,1,2", classes=2, more="scale_x_y=1.1\n"),
    "v4-new-coords": NET.format(w=24, h=16)
    + _conv(6, 3, "mish", stride=2)
    + _conv(14, 1, "logistic", norm=0)
    + YOLO.format(mask="1,3", classes=2, more="scale_x_y=2.0\nnew_coords=1\n"),
    "gaussian": NET.format(w=24, h=16)
    + _conv(6, stride=2)
    + _conv(2 * (9 + 3), 1, "linear", norm=0)
    + YOLO.replace("[yolo]", "[Gaussian_yolo]").format(mask="1,3", classes=3, more="scale_x_y=1.2\n"),
    "attention": NET.format(w=24, h=16)
    + _conv(4, 3, "leaky", stride=2)
    + "[avgpool]\n"
    + _conv(4, 1, "logistic", norm=0)
    + "[scale_channels]\nfrom=-3\nactivation=linear\n"
    + _conv(4, 1, "logistic", norm=0)
    + "[sam]\nfrom=-2\nactivation=linear\n"
    + _head(1, 2)
    + YOLO.format(mask="2", classes=2, more=""),
    # Nobody else runs these: pjreddie's [batchnorm] alone has no memory for its input, and crashes.
    "rest": NET.format(w=19, h=15)
    + _conv(4, 3, "hard_mish", norm=1, pad=1, dilation=2)
    + _conv(5, 3, "swish", pad=0, padding=2, stride_x=2, stride_y=1)
    + _conv(5, 3, "relu6", flipped=1)
    + "[shortcut]\nfrom=-2\nbeta=.5\n"
    + "[batchnorm]\n"
    + "[local_avgpool]\nsize=3\nstride=2\n"
    + "[maxpool]\nsize=3\nstride_x=2\nstride_y=1\n"
    + "[upsample]\nstride=3\nscale=.5\n"
    + "[shortcut]\nfrom=-1,-1\nactivation=leaky\n"
    + "[connected]\noutput=6\nactivation=linear\n[softmax]\n",
}

# 24 classes: groups of 1 to 6, five levels, a group of one in the middle of a path, leaves at each level.
TREE = "".join(
    f"c{number} {parent}\n"
    for number, parent in enumerate(
        [-1, -1, -1, 0, 0, 0, 0, 0, 0, 1, 1, 3, 3, 3, 4, 9, 9, 11, 11, 14, 14, 14, 19, 19]
    )
)
# Both name the tree as {tree}; the last convolution's filters are the values behind which it stands.
TREE_NETS = {
    "region": NET.format(w=32, h=24)
    + _conv(6, stride=2)
    + _head(2, 24)
    + REGION.replace("classes=3", "classes=24").format(more="softmax=1\ntree={tree}\nmap = coco9k.map\n"),
    "softmax": NET.format(w=12, h=8)
    + _conv(6, stride=2)
    + "[connected]\noutput=24\nactivation=linear\n"
    + "[softmax]\ngroups=1\ntree={tree}\n"
    + "[cost]\ntype=masked\n",
}

KNOWN = {
    "v3": ("darknet", "opencv"),
    "v2": ("darknet", "opencv"),
    "v2-sigmoid": ("darknet",),
    "v1": ("darknet",),
    "v1-softmax": ("darknet",),
    "classifier": ("darknet",),
    "connected": ("darknet",),
    "activations": ("darknet",),
    "v4": ("opencv",),
    "v4-new-coords": ("opencv",),
    "attention": ("opencv",),
    # AlexeyAB's Darknet alone has it, which no distribution has.
    "gaussian": (),
    "rest": (),
}
