"""The workloads that come with the project. Importing this package registers them; each is loaded when asked for."""

from modelopt_core.workloads import digits as digits
from modelopt_core.workloads import docstrings as docstrings
from modelopt_core.workloads import mnist as mnist
