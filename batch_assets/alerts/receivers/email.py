"""People who get an e-mail, over SMTP."""

import smtplib
import ssl
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime

from batch_assets.alerts.alert import Message
from batch_assets.alerts.receivers.base import SECONDS, reason, secret
from batch_assets.environment import without_secrets
from batch_assets.errors import AlertError, RefusedAlertError
from batch_assets.spec.alerts import EmailReceiver

# Of these a server says that it does not want the message, or whom it is for.
REFUSED = 500
# A mail program shows that much of a subject, and no server cuts it.
SUBJECT = 200


@dataclass(frozen=True)
class Mailbox:
    """Sends each message to all recipients in one go."""

    receiver: EmailReceiver
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    def send(self, message: Message) -> str | None:
        """Hand it to the server; return who of several is not there.

        Raises:
            RefusedAlertError: the server does not want it, or nobody of these.
            AlertError: it can't be reached, or is busy.
        """
        host, port = self.receiver.host, self.receiver.at_port
        try:
            with self._connected() as server:
                if self.user is not None:
                    server.login(self.user, self.password or "")
                refused = server.send_message(
                    self._written(message), self.receiver.sender, self.receiver.to
                )
        except smtplib.SMTPRecipientsRefused as error:
            whom = self._said(error.recipients)
            codes = [code for code, _ in error.recipients.values()]
            kind = RefusedAlertError if min(codes) >= REFUSED else AlertError
            msg = f"{host}:{port} takes it for nobody: {whom}"
            raise kind(msg) from None
        except smtplib.SMTPResponseException as error:
            said = self._plain(error.smtp_error)
            msg = f"{host}:{port} answers {error.smtp_code} {said}"
            kind = RefusedAlertError if error.smtp_code >= REFUSED else AlertError
            raise kind(msg) from None
        except smtplib.SMTPNotSupportedError as error:
            msg = f"{host}:{port}: {reason(error, *self._secrets)}"
            raise RefusedAlertError(msg) from None
        except (smtplib.SMTPException, OSError) as error:
            msg = f"{host}:{port} can't be reached: {reason(error, *self._secrets)}"
            raise AlertError(msg) from None
        return f"not taken for {self._said(refused)}" if refused else None

    @property
    def _secrets(self) -> list[str]:
        return [text for text in (self.user, self.password) if text]

    def _connected(self) -> smtplib.SMTP:
        host, port = self.receiver.host, self.receiver.at_port
        if self.receiver.security == "tls":
            context = ssl.create_default_context()
            return smtplib.SMTP_SSL(host, port, timeout=SECONDS, context=context)
        server = smtplib.SMTP(host, port, timeout=SECONDS)
        if self.receiver.security == "starttls":
            try:
                # A server that does not offer it is an error, and not spoken to in the
                # clear.
                server.starttls(context=ssl.create_default_context())
            except BaseException:
                server.close()
                raise
        return server

    def _written(self, message: Message) -> EmailMessage:
        mail = EmailMessage(policy=SMTP)
        mail["From"] = self.receiver.sender
        mail["To"] = ", ".join(self.receiver.to)
        mail["Subject"] = " ".join(message.headline.split())[:SUBJECT]
        mail["Date"] = format_datetime(message.alert.at)
        # The same however often it is sent: mail programs show it once.
        domain = self.receiver.sender.rpartition("@")[2]
        mail["Message-ID"] = f"<{message.id}@{domain}>"
        # No answering machine is to answer.
        mail["Auto-Submitted"] = "auto-generated"
        # A line of details may be longer than SMTP takes.
        mail.set_content(
            f"{message.headline}\n\n{message.text}\n", cte="quoted-printable"
        )
        return mail

    def _said(self, refused: dict[str, tuple[int, bytes]]) -> str:
        return "; ".join(
            f"{who} ({code} {self._plain(text)})"
            for who, (code, text) in sorted(refused.items())
        )

    def _plain(self, text: bytes | str) -> str:
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        return without_secrets(text, self._secrets)


def open_receiver(receiver: EmailReceiver) -> Mailbox:
    """Read the user and the password from the environment, if there is to be one.

    Raises:
        ConfigError: one of them is not set.
    """
    if receiver.user_env is None or receiver.password_env is None:
        return Mailbox(receiver)
    user = secret(receiver.user_env, "the SMTP server's user")
    return Mailbox(receiver, user, secret(receiver.password_env, "its password"))
