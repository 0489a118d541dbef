"""Sources for streams: event logs, queues, Pub/Sub and channels.

Optional: nothing here is imported by the package itself. Without redis-py or asyncpg, importing works, and making a
source that needs them says what to install.
"""

from __future__ import annotations

from litestar_safe_sse._litestar import TopicsDeniedError
from litestar_safe_sse.exceptions import (
    MissingExtraError,
    SourceRefusedError,
    SourceUnavailableError,
    TopicFinishedError,
)
from litestar_safe_sse.sources._fan_out_log import sequence_of
from litestar_safe_sse.sources._presence import Presence
from litestar_safe_sse.sources._subscription import Overflow, Subscription
from litestar_safe_sse.sources.channels import ChannelMessage, ChannelsSource
from litestar_safe_sse.sources.event_log import (
    CaughtUp,
    EventLog,
    Finished,
    History,
    Last,
    Reset,
    Since,
    Subscribed,
)
from litestar_safe_sse.sources.memory import MemoryEventLog
from litestar_safe_sse.sources.postgres.log import PostgresEventLog
from litestar_safe_sse.sources.redis.group_queue import QueueItem, RedisGroupQueue
from litestar_safe_sse.sources.redis.log import RedisEventLog
from litestar_safe_sse.sources.redis.plugin import RedisPlugin
from litestar_safe_sse.sources.redis.pubsub import Gap, PubSubMessage, RedisPubSub
from litestar_safe_sse.sources.redis.queue import RedisQueue
from litestar_safe_sse.sources.redis.sync import SyncRedisEventLog
from litestar_safe_sse.sources.statistics import EventLogStatistics, QueueStatistics, SourceStatistics

__all__ = (
    "CaughtUp",
    "ChannelMessage",
    "ChannelsSource",
    "EventLog",
    "EventLogStatistics",
    "Finished",
    "Gap",
    "History",
    "Last",
    "MemoryEventLog",
    "MissingExtraError",
    "Overflow",
    "PostgresEventLog",
    "Presence",
    "PubSubMessage",
    "QueueItem",
    "QueueStatistics",
    "RedisEventLog",
    "RedisGroupQueue",
    "RedisPlugin",
    "RedisPubSub",
    "RedisQueue",
    "Reset",
    "Since",
    "SourceRefusedError",
    "SourceStatistics",
    "SourceUnavailableError",
    "Subscribed",
    "Subscription",
    "SyncRedisEventLog",
    "TopicFinishedError",
    "TopicsDeniedError",
    "sequence_of",
)
