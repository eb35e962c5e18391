"""A bound rather than a peer: OpenVINO's AsyncInferQueue in throughput mode, at float32.

Its runs are concurrent as ours are, on another runtime; NMS happens in its callbacks. Frames come out
in any order: whoever uses it has to sort them.
"""

import threading

import openvino
import openvino.properties as props
import openvino.properties.hint as hints
from common import Recorder, arguments, blob_of, pictures, postprocess

asked = arguments()
core = openvino.Core()
settings = {
    hints.performance_mode: hints.PerformanceMode.THROUGHPUT,
    # Without this it takes bfloat16 where the processor has it, which is another model.
    hints.inference_precision: openvino.Type.f32,
}
compiled = core.compile_model(asked.model, "CPU", settings)
queue = openvino.AsyncInferQueue(compiled)
recorder = Recorder(asked, "openvino", "opencv-python", "numpy")
lock = threading.Lock()


def completed(request, told):
    number, place, image = told
    found = postprocess(request.get_output_tensor(0).data, place, image, asked)
    with lock:
        recorder.keep(number, *found)
        recorder.tick()


queue.set_callback(completed)
for number, image in enumerate(pictures(asked.clip)):
    # A few more than are asked for keep the queue full to the end of what is timed.
    if recorder.done:
        break
    blob, place = blob_of(image, asked.size)
    queue.start_async([blob], (number, place, image))
queue.wait_all()
recorder.finish(streams=compiled.get_property(props.num_streams))
