"""Who is told when a night goes wrong: each kind of receiver with its settings.

Secrets are never settings: these name the environment variables that hold them. An
address that a webhook or Apprise is reached at is such a secret, too: it often holds a
token.
"""

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from batch_assets.strict import NAME, StrictModel, kinds_of, kinds_schema

AlertKind = Literal[
    "run_failed",
    "gate_shut",
    "check_warned",
    "deadline_at_risk",
    "deadline_missed",
    "snapshot_stale",
    "sink_lags",
]
KINDS: tuple[AlertKind, ...] = get_args(AlertKind)

# The word `on` would be the usual one, but YAML reads it as true.
ONLY = Field(
    default=KINDS,
    min_length=1,
    description="Which kinds of alerts it gets; all, if left out.",
)
# By what an address is told from a name, a list of them or an injected header.
ADDRESS = r"^[^@\s,;<>]+@[^@\s,;<>]+$"
Address = Annotated[str, Field(pattern=ADDRESS)]
VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
PORTS = {"starttls": 587, "tls": 465, "none": 25}


class LogReceiver(StrictModel):
    """The log of whatever process notices."""

    kind: Literal["log"]
    name: str = Field(default="log", pattern=NAME, description="Names the receiver.")
    only: tuple[AlertKind, ...] = ONLY


class WebhookReceiver(StrictModel):
    """A URL that alerts are posted to as JSON, signed."""

    kind: Literal["webhook"]
    name: str = Field(
        default="webhook", pattern=NAME, description="Names the receiver."
    )
    only: tuple[AlertKind, ...] = ONLY
    url_env: str = Field(
        default="ALERTS_WEBHOOK_URL",
        pattern=VARIABLE,
        description="The variable that holds the URL.",
    )
    secret_env: str = Field(
        default="ALERTS_WEBHOOK_SECRET",
        pattern=VARIABLE,
        description="The variable of the secret that it is signed with: `whsec_` and "
        "base64.",
    )


class EmailReceiver(StrictModel):
    """People who get an e-mail."""

    kind: Literal["email"]
    name: str = Field(default="email", pattern=NAME, description="Names the receiver.")
    only: tuple[AlertKind, ...] = ONLY
    host: str = Field(min_length=1, description="The SMTP server.")
    security: Literal["starttls", "tls", "none"] = Field(
        default="starttls",
        description="How the connection is encrypted: from its second command on, from "
        "its first byte on, or not at all.",
    )
    port: int | None = Field(
        default=None,
        ge=1,
        le=65_535,
        description="587 with starttls, 465 with tls, 25 with none, if left out.",
    )
    sender: Address = Field(description="The address that it is from.")
    to: tuple[Address, ...] = Field(min_length=1, description="Who gets it.")
    user_env: str | None = Field(
        default=None,
        pattern=VARIABLE,
        description="The variable of the user; nobody logs in, if left out.",
    )
    password_env: str | None = Field(
        default=None, pattern=VARIABLE, description="The variable of the password."
    )

    @model_validator(mode="after")
    def _a_password_is_whole_and_encrypted(self) -> Self:
        if (self.user_env is None) != (self.password_env is None):
            msg = "`user_env` and `password_env` go together, got one of them"
            raise ValueError(msg)
        if self.user_env and self.security == "none":
            msg = (
                "a password is not sent in the clear: expected `security` to be "
                "starttls or tls, or no `user_env` and `password_env`, got none"
            )
            raise ValueError(msg)
        return self

    @property
    def at_port(self) -> int:
        """The port, as declared or as usual."""
        return self.port or PORTS[self.security]


class AppriseReceiver(StrictModel):
    """Slack, Teams, PagerDuty and others that Apprise knows."""

    kind: Literal["apprise"]
    name: str = Field(
        default="apprise", pattern=NAME, description="Names the receiver."
    )
    only: tuple[AlertKind, ...] = ONLY
    url_env: str = Field(
        default="ALERTS_APPRISE_URL",
        pattern=VARIABLE,
        description="The variable that holds Apprise's URL, such as slack://…",
    )


# A kind of receiver is its module in `alerts.receivers`, and its settings in this line.
AnyReceiver = LogReceiver | WebhookReceiver | EmailReceiver | AppriseReceiver
RECEIVERS: dict[str, type[AnyReceiver]] = kinds_of(AnyReceiver)
Receiver = Annotated[AnyReceiver, Field(discriminator="kind"), kinds_schema(RECEIVERS)]


class AlertsSpec(StrictModel):
    """Who is told, and how often."""

    receivers: list[Receiver] = Field(
        min_length=1, description="Who is told; each gets what it asks for."
    )
    repeat_hours: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="An alert that is raised again after so many hours is sent again; "
        "never, if left out, until it was resolved.",
    )
    sink_lag_minutes: float = Field(
        default=60,
        ge=0,
        allow_inf_nan=False,
        description="How long a sink may serve another version than is served on disk.",
    )

    @field_validator("receivers")
    @classmethod
    def _receivers_have_names_of_their_own(
        cls, receivers: list[Receiver]
    ) -> list[Receiver]:
        names = [receiver.name for receiver in receivers]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            msg = f"two receivers are named '{twice[0]}': give one another `name`"
            raise ValueError(msg)
        return receivers
