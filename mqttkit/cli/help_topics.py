"""`mqttkit help TOPIC`: what several commands have in common."""

from __future__ import annotations

TOPICS = {
    "exit-codes": """\
Exit codes

  0    done, and everything requested was acknowledged
  1    failed in a way that no other code names
  2    wrong usage or configuration
  3    broker unreachable; the message names the step that failed
  4    broker refused the connection; the message names the reason
  5    a subscription was denied
  6    a publish was denied or not acknowledged
  7    a required part is missing; the message gives the command that installs it
  8    `expect`: a message is not as expected
  27   the time limit expired before enough messages arrived
  75   `bridge run`: its memory limit is reached; start it again
  130  interrupted""",
    "formats": """\
Formats of `mqttkit sub`

  (nothing)        the payload and a line feed
  -v               topic name, a space, the payload
  -F FORMAT        %t topic  %p payload  %q QoS  %r retain  %l length  %x hexadecimal
                   %I %U time  %j %J JSON  @H:@M:@S strftime  %% @@ \\n \\t
  --field a.b.0    one value of a JSON payload
  --json           one JSON object for each message, without loss:
                   {"timestamp":"…","topic":"a/b","qos":1,"retain":false,"payload":"21.5"}
                   `payload_base64` instead of `payload` if the payload is not UTF-8

`mqttkit pub --json` reads the lines that `sub --json` writes. On a terminal, control
characters are escapes such as \\x1b; --raw prints bytes. A pipe always gets the bytes.

  mqttkit sub -F '@H:@M:@S %-30t %p' 'site/#'""",
    "connection": """\
Connection options

  mqttkit sub -h HOST -p PORT -u NAME -P - TOPIC         -P - asks for the password
  mqttkit sub -L mqtts://user@host:8883/site/# --password-file FILE
  mqttkit sub --broker NAME TOPIC                        a broker of `mqttkit broker up`

Without options, commands use the settings file, then the broker of `mqttkit broker up`,
then localhost:1883. TLS: --tls, or --cafile FILE for a private authority; port 8883.
WebSocket: --ws. Options for TLS, session and will: mqttkit COMMAND --help-all.

If it does not work: mqttkit doctor HOST""",
    "environment": """\
Environment variables

  MQTTKIT_HOST  MQTTKIT_PORT  MQTTKIT_USERNAME  MQTTKIT_PASSWORD
  MQTTKIT_CONFIG             path of the settings file
  MQTTKIT_ and a setting's path in capitals: MQTTKIT_MQTT_CLIENT_KEEP_ALIVE=30

Options override variables, variables override the settings file. Separate the items of
a list with commas. To see where each setting comes from: mqttkit config show""",
}
"""Text of each topic, by the word after `help`."""
