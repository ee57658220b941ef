"""The workloads that come with the project; importing this package registers them. None is loaded before it is asked for."""

from modelopt_core.workloads import digits as digits
