"""The scan publisher: advertisements from a source become messages of a client."""

from mqttkit.scan_publisher.payload import format_advertisement
from mqttkit.scan_publisher.publisher import ScanPublisher
from mqttkit.scan_publisher.status import StatusTopic
from mqttkit.scan_publisher.totals import SHUTDOWN, ScanTotals

__all__ = ["SHUTDOWN", "ScanPublisher", "ScanTotals", "StatusTopic", "format_advertisement"]
