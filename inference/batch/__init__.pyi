from .jobs import Job, find_jobs
from .options import BatchOptions
from .run import generate_audio

__all__ = ["BatchOptions", "Job", "find_jobs", "generate_audio"]
