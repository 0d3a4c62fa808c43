"""A plan that is ready to run: one execution context, on a CUDA stream of its own."""

import mmap

import tensorrt as trt
import torch
from plan_tensors import PROFILE, check_config, read_tensors


def open_session(model_config, file, instance_kind, device_id):
    """ValueError if the instance has no GPU, or the plan does not load or differs from config.pbtxt."""
    if instance_kind != "GPU":
        raise ValueError(f"a plan runs in an instance of KIND_GPU, this is one of KIND_{instance_kind}")
    device = torch.device("cuda", device_id)
    with torch.cuda.device(device):
        engine = load(file)
        inputs, outputs = read_tensors(engine)
        check_config(model_config, inputs, outputs)
        # Triton's response cache takes nothing from a GPU.
        cached = model_config.get("response_cache", {}).get("enable", False)
        context = engine.create_execution_context()
        return PlanSession(context, inputs, outputs, device, torch.device("cpu") if cached else device)


def load(file):
    """The engine; ValueError if TensorRT refuses it, whose reason goes to Triton's log."""
    runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
    # Mapped, not read: a plan can be larger than the memory that is free beside it.
    with file.open("rb") as plan, mmap.mmap(plan.fileno(), 0, access=mmap.ACCESS_READ) as content:
        engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise ValueError(f"TensorRT {trt.__version__} refuses {file.name}; its reason is in Triton's log")
    return engine


def accepted(done, what):
    if not done:
        raise RuntimeError(f"TensorRT refused {what}; its reason is in Triton's log")


class PlanSession:
    """`inputs`, `outputs`: the plan's tensors by name. It computes on `device`; answers lie on `home`."""

    def __init__(self, context, inputs, outputs, device, home):
        self.context, self.inputs, self.outputs = context, inputs, outputs
        self.device, self.home = device, home
        self.stream = torch.cuda.Stream(device)
        self.no_elements = torch.empty(1, device=device)
        accepted(context.set_optimization_profile_async(PROFILE, self.stream.cuda_stream), "profile 0")

    def run(self, requests):
        """The outputs of `requests` as one batch, in the order of `outputs`.

        A request is a dict, input name -> tensor on CPU or GPU; requests differ in the length of axis 0.
        Raises InvalidInput, torch's OutOfMemoryError, or RuntimeError if TensorRT refuses.
        """
        with torch.cuda.stream(self.stream):
            batch = {name: self.joined([arrays[name] for arrays in requests]) for name in self.inputs}
            answers = [answer.to(self.home) for answer in self.enqueue(batch)]
            # While `batch` lives and before the answers leave: who reads them does not know this stream.
            self.stream.synchronize()
        return answers

    def joined(self, arrays):
        placed = [array.to(self.device, non_blocking=True) for array in arrays]
        return placed[0].contiguous() if len(placed) == 1 else torch.cat(placed)

    def enqueue(self, batch):
        for name, array in batch.items():
            self.inputs[name].check(array.shape)
            accepted(self.context.set_input_shape(name, tuple(array.shape)), f"the shape of {name}")
            self.bind(name, array)
        answers = [self.allocated(output) for output in self.outputs.values()]
        accepted(self.context.execute_async_v3(self.stream.cuda_stream), "to run")
        return answers

    def allocated(self, output):
        shape = tuple(self.context.get_tensor_shape(output.name))
        array = torch.empty(shape, dtype=output.dtype, device=self.device)
        self.bind(output.name, array)
        return array

    def bind(self, name, array):
        # TensorRT refuses the null address that an empty array has, such as that of a pack of rank 0.
        address = array.data_ptr() or self.no_elements.data_ptr()
        accepted(self.context.set_tensor_address(name, address), f"the memory of {name}")
