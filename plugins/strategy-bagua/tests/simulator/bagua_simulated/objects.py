"""What Bagua leaves on a parameter: its names there, and objects of its native code."""

from __future__ import annotations

import threading


def leave_on(parameter, name, module_name):
    """Name a parameter, whose name and model then stay as they are."""
    if hasattr(parameter, "_bagua_backend_tensor"):
        found = (parameter.bagua_tensor_name, parameter.bagua_module_name)
        assert found == (name, module_name), (
            "simulated: assigning a different name, or module name, to a tensor"
        )
        return
    parameter.bagua_tensor_name, parameter.bagua_module_name = name, module_name
    parameter.bagua_backend = threading.Lock()  # as native objects, it cannot be pickled
    parameter._bagua_backend_tensor = threading.Lock()
    parameter._bagua_getter_closure = lambda tensor: tensor
    parameter._bagua_setter_closure = None
    parameter._bagua_ready_event = threading.Event()
    parameter._bagua_bucket = None
