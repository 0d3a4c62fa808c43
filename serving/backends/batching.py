"""Requests of one call that can run as one batch; `serving` copies this file to each backend's folder.

A request is a dict of its inputs, input name -> array of NumPy or torch.
"""

from collections import defaultdict


def answered(requests, batches, run, failure):
    """A response to each of `requests`, in their order.

    `run` answers a list of requests as one batch; with `batches` their arrays may differ in the length of
    axis 0. A batch that fails runs again one by one, so that only the guilty get `failure` of their error.
    """
    responses = {}
    for group in groups(requests, batches):
        answers = attempted([requests[place] for place in group], run, failure)
        responses.update(zip(group, answers, strict=True))
    return [responses[place] for place in range(len(requests))]


def groups(requests, batches):
    """Places of the requests that can run as one batch: the same inputs, alike but for axis 0."""
    places = defaultdict(list)
    for place, arrays in enumerate(requests):
        shapes = frozenset((name, tuple(array.shape[1:])) for name, array in arrays.items())
        places[shapes if batches else place].append(place)
    return places.values()


def attempted(requests, run, failure):
    try:
        return run(requests)
    except Exception as error:
        if len(requests) > 1:
            return [attempted([one], run, failure)[0] for one in requests]
        return [failure(error)]


def separated(outputs, requests):
    """Each request's rows of the batch's `outputs`: as many as the arrays of the request have."""
    if len(requests) == 1:
        return [outputs]
    parts, start = [], 0
    for arrays in requests:
        end = start + len(next(iter(arrays.values())))
        parts.append([output[start:end] for output in outputs])
        start = end
    return parts
