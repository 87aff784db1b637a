"""Settings of JAX that a study needs, whatever the environment or the calling program has set."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax

from lr_study.errors import StudyError
from lr_study.progress import note

# JAX's defaults for every setting that changes numbers, or that raises errors for diverging trials
# or for correct code. Devices, clusters, caches, logs and dumps are left to the user.
OURS = {
  # Numbers.
  'jax_enable_x64': False,
  'jax_numpy_dtype_promotion': 'standard',
  'jax_default_matmul_precision': None,
  'jax_default_prng_impl': 'threefry2x32',
  'jax_threefry_partitionable': True,
  'jax_threefry_gpu_kernel_lowering': False,
  'jax_random_seed_offset': 0,
  'jax_high_dynamic_range_gumbel': False,
  'jax_softmax_custom_jvp': False,
  'jax_allow_f16_reductions': True,
  'jax_enable_custom_prng': False,
  'jax_disable_jit': False,
  'jax_disable_most_optimizations': False,
  'jax_optimization_level': 'UNKNOWN',
  'jax_exec_time_optimization_effort': 0.0,
  'jax_memory_fitting_effort': 0.0,
  'jax_memory_fitting_level': 'O2',
  'jax_enable_pgle': False,
  'jax_compiler_enable_remat_pass': True,
  'jax_use_direct_linearize': True,
  'jax_use_shardy_partitioner': True,
  'jax_default_device': None,
  # Errors.
  'jax_debug_nans': False,
  'jax_debug_infs': False,
  'jax_debug_key_reuse': False,
  'jax_numpy_rank_promotion': 'allow',
  'jax_legacy_prng_key': 'allow',
  'jax_check_tracer_leaks': False,
  'jax_check_static_indices': False,
  'jax_enable_checks': False,
  'jax_error_checking_behavior_nan': 'ignore',
  'jax_error_checking_behavior_divide': 'ignore',
  'jax_error_checking_behavior_oob': 'ignore',
  'jax_transfer_guard': None,
  'jax_transfer_guard_host_to_device': None,
  'jax_transfer_guard_device_to_host': None,
  'jax_transfer_guard_device_to_device': None,
  'jax_array_garbage_collection_guard': None,
  'jax_thread_guard': False,
  'jax_no_tracing': False,
  'jax_no_execution': False,
  'jax_disallow_mesh_context_manager': False,
  'jax_raise_persistent_cache_errors': False,
  'jax_compilation_cache_check_contents': False,
  'jax_compilation_cache_expect_pgle': False,
}


@contextlib.contextmanager
def ours() -> Iterator[None]:
  """Applies `OURS`, prints which settings were different, and restores them at the end.

  Raises:
    StudyError: a `with` statement around this call has set one of them.
  """
  before = {}
  try:
    for name, own in OURS.items():
      # Another version of JAX may not have it.
      if name not in jax.config.values or (value := _value(name)) == own:
        continue
      jax.config.update(name, own)
      if _value(name) != own:
        raise StudyError(
          f'{name} is {value} here, and a study needs {own}; call it outside of the `with` '
          'statement that sets it'
        )
      before[name] = value
    if before:
      told = ', '.join(f'{name} is {OURS[name]}, not {value}' for name, value in before.items())
      note(f'JAX settings changed for this study: {told}')
    yield
  finally:
    for name, value in before.items():
      jax.config.update(name, value)


def check_devices() -> None:
  """Sets up JAX's devices.

  Raises:
    StudyError: JAX finds no device of the kind that the environment asks for.
  """
  try:
    jax.local_devices()
  except Exception as error:  # of many kinds, including assertions without a message
    lines = str(error).strip().splitlines()
    asked = jax.config.jax_platforms
    raise StudyError(
      f'JAX finds no device{f" of JAX_PLATFORMS={asked}" if asked else ""}'
      f'{f": {lines[0]}" if lines else ""}; unset JAX_PLATFORMS to use the devices there are'
    ) from error


def _value(name: str) -> Any:
  value = jax.config.values[name]
  return getattr(value, 'value', value)  # of an enumeration
