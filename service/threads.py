"""Who has how many threads: the one place where the cores of the machine are shared out.

Work runs on our own threads. The libraries below it (OpenCV, BLAS, OpenMP of FAISS, ONNX Runtime) would each start as
many again as there are cores, and are held to the thread that calls them.
"""

from dataclasses import dataclass
from typing import ClassVar

import cv2
import faiss
import threadpoolctl


@dataclass(frozen=True)
class Threads:
    """The threads of a server that may use so many cores."""

    cores: int
    session: ClassVar[int] = 1  # of ONNX Runtime, in each of the threads that run a network
    gallery: ClassVar[int] = 8  # wait for the disk, or for another's search: those that wait are answered by one pass
    models: ClassVar[int] = 1  # load a model, which takes seconds

    @property
    def crew(self) -> int:
        """Decode, detect, align and embed."""
        return self.cores

    @property
    def search(self) -> int:
        """Go through a gallery together."""
        return self.cores


def hold_libraries() -> None:
    """Let no library start threads of its own."""
    cv2.setNumThreads(1)
    threadpoolctl.threadpool_limits(1)
    hold_openmp()


def hold_openmp() -> None:
    """The same for OpenMP, which keeps a number for each thread: to be called on every thread that calls FAISS."""
    faiss.omp_set_num_threads(1)
