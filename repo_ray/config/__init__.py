"""One validated tree of settings; nothing reads the environment or a config file elsewhere."""

from repo_ray.config.load import ConfigError, dump_config, environment, load_config
from repo_ray.config.settings import Config

__all__ = ["Config", "ConfigError", "dump_config", "environment", "load_config"]
