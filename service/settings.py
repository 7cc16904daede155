"""All settings of the server, read once at start from FACESPHERE_* variables and the command line, then handed down."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from models.runtime import Device
from service.errors import InvalidRequestError
from service.logs import LogFormat
from service.security.keyfolder import MasterKeySource
from service.security.tls import TlsFiles

PREFIX = "FACESPHERE_"
Port = Annotated[int, Field(ge=0, le=65535)]


class Settings(BaseSettings):
    """Each field is also an environment variable: `port` is FACESPHERE_PORT."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True, hide_input_in_errors=True
    )

    host: str = Field("127.0.0.1", description="Address to listen on; any but loopback needs a key.")
    port: Port = Field(8000, description="Port of REST; 0 picks a free one.")
    grpc_port: Port = Field(50051, description="Port of gRPC; 0 picks a free one.")
    data_dir: Path = Field(Path("data"), description="Folder of the gallery and the models.")
    keys_dir: Path | None = Field(None, description="Folder of keyring, signing key and ledger, if not data_dir.keys.")
    master_key: SecretStr | None = Field(None, description="Base64 of the 32 bytes that encrypt the keyring.")
    master_key_file: Path | None = Field(None, description="A file with the same, instead.")
    master_key_command: str | None = Field(None, description="A command that prints the same: the hook for a KMS.")
    gallery_url: SecretStr | None = Field(
        None, description="postgresql://... of the gallery, for several servers; left out: files in data_dir."
    )
    gallery_replica_url: SecretStr | None = Field(
        None, description="postgresql://... of a standby of it, which searches may be answered from."
    )
    models_dir: Path | None = Field(None, description="Folder of the model registry, if not data_dir/models.")
    model: str | None = Field(None, description="Embedder to serve; the promoted one if left out.")
    detector: str | None = Field(None, description="Detector to serve; the promoted one if left out.")
    auto_pull: bool = Field(True, description="Fetch the default models at start where they are missing.")
    device: Device = Field(
        "auto", description="auto, cpu, cuda, tensorrt or openvino; a named one must really be used."
    )
    detector_device: Literal["cpu", "cuda"] = Field(
        "cpu", description="Where faces are looked for: cpu, or cuda beside an embedder on a GPU."
    )
    workers: int = Field(1, ge=1, le=1, description="Server processes; this version runs one.")
    threads: int = Field(0, ge=0, le=1024, description="Threads for images, inference and a search; 0: one a core.")
    api_key: SecretStr | None = Field(
        None, description="One key for everything, beside those of `facesphere keys`; at least 16 characters."
    )
    tls_cert: Path | None = Field(None, description="PEM file of the server's certificate chain: TLS on both ports.")
    tls_key: Path | None = Field(None, description="PEM file of its private key.")
    tls_client_ca: Path | None = Field(None, description="PEM file of the authority that callers' certificates are of.")
    target_fmr: float = Field(1e-3, gt=0, lt=1, description="False-match rate of /verify when the caller states none.")
    target_fpir: float = Field(1e-2, gt=0, lt=1, description="Rate at which identify may name a stranger, by default.")
    search_recall: float = Field(
        0.99,
        gt=0,
        le=1,
        description="Share of near faces that identify must find in a large collection; 1: all, always.",
    )
    max_image_bytes: int = Field(20 * 2**20, ge=1024, description="Largest image file.")
    max_image_pixels: int = Field(64_000_000, ge=4096, description="Most pixels of an image, told from its header.")
    max_body_bytes: int = Field(64 * 2**20, ge=4096, description="Largest request body or gRPC message.")
    max_pending_bytes: int = Field(
        2**30, ge=2**20, description="Bodies of all open requests, over each protocol; then 429."
    )
    max_batch: int = Field(8, ge=1, le=256, description="Most faces embedded in one go.")
    max_queue: int = Field(256, ge=1, description="Faces, and photos, that may wait; the next one gets 429.")
    max_queue_delay_s: float = Field(
        0,
        ge=0,
        le=10,
        allow_inf_nan=False,
        description="How long a batch that is not full waits for more faces, where batches gain anything.",
    )
    cuda_graphs: bool = Field(
        False, description="Record what the embedder launches on a GPU, and launch it as a whole."
    )
    request_timeout_s: float = Field(
        30, gt=0, allow_inf_nan=False, description="Time for a request, its upload included; then 504."
    )
    shutdown_grace_s: float = Field(
        20, gt=0, allow_inf_nan=False, description="Time for open requests to finish after SIGTERM."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="What is logged on stderr.")
    log_format: LogFormat = Field("text", description="text, or json: an object a line, with request_id.")
    tracing: bool = Field(False, description="Send traces by OTLP to where the OTEL_* variables say.")

    @field_validator("api_key")
    @classmethod
    def _long_enough(cls, key: SecretStr | None) -> SecretStr | None:
        # A key that no Authorization header can carry would lock everybody out.
        if key is not None and not re.fullmatch(r"[!-~]{16,}", key.get_secret_value()):
            raise ValueError("must be at least 16 ASCII characters without spaces; make one with: openssl rand -hex 32")
        return key

    @field_validator("gallery_url", "gallery_replica_url")
    @classmethod
    def _of_postgres(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("must begin with postgresql://")
        return url

    @model_validator(mode="after")
    def _replica_of_something(self) -> "Settings":
        if self.gallery_replica_url is not None and self.gallery_url is None:
            raise ValueError("gallery_replica_url needs gallery_url, the primary's")
        return self

    @model_validator(mode="after")
    def _one_master_key(self) -> "Settings":
        if sum(each is not None for each in (self.master_key, self.master_key_file, self.master_key_command)) > 1:
            raise ValueError("give one of master_key, master_key_file and master_key_command")
        return self

    @model_validator(mode="after")
    def _certificate_and_key(self) -> "Settings":
        if (self.tls_cert is None) != (self.tls_key is None) or (self.tls_client_ca and not self.tls_cert):
            raise ValueError("TLS needs tls_cert and tls_key, both")
        return self

    @model_validator(mode="after")
    def _faces_beside_their_embedder(self) -> "Settings":
        if self.detector_device == "cuda" and self.device in ("cpu", "openvino"):
            raise ValueError(f"detector_device cuda is for servers that embed on a GPU too, not on {self.device}")
        return self

    @property
    def tls(self) -> TlsFiles | None:
        """The certificates, if there are any."""
        return TlsFiles(self.tls_cert, self.tls_key, self.tls_client_ca) if self.tls_cert and self.tls_key else None

    @property
    def key_folder(self) -> Path:
        """Where the keys are: beside the data folder, not in it."""
        data = self.data_dir.absolute()
        return self.keys_dir or data.with_name(data.name + ".keys")

    @property
    def master_key_source(self) -> MasterKeySource:
        """Where the master key comes from."""
        value = self.master_key.get_secret_value() if self.master_key else None
        return MasterKeySource(value, self.master_key_file, self.master_key_command)

    @property
    def gallery_urls(self) -> tuple[str, str | None] | None:
        """Of the primary and of a standby; None where the gallery is in files."""
        if self.gallery_url is None:
            return None
        replica = self.gallery_replica_url
        return self.gallery_url.get_secret_value(), replica.get_secret_value() if replica else None

    @property
    def registry_dir(self) -> Path:
        """Where the models are."""
        return self.models_dir or self.data_dir / "models"

    @property
    def cores(self) -> int:
        """Threads to use, with 0 resolved to the cores this process may run on."""
        return self.threads or len(os.sched_getaffinity(0))


def read_settings(**flags: Any) -> Settings:
    """Settings out of the environment, with flags that were given taking precedence.

    Raises:
        InvalidRequestError: a value out of range, or a FACESPHERE_* variable that does not exist, in one line.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    unknown = sorted(name for name in os.environ if name.startswith(PREFIX) and name.upper() not in known)
    if unknown:
        raise InvalidRequestError(f"unknown setting {unknown[0]}; known: {', '.join(sorted(known))}")
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = "".join(f"{part}: " for part in problem["loc"])
        raise InvalidRequestError(where + problem["msg"].removeprefix("Value error, ")) from error
