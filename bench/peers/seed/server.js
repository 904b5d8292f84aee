// The seed's design as a runnable peer: Express, one ioredis Cluster client, ajv over every answer,
// a consecutive-failure breaker, counters and an audit list.
//
// Repaired, because otherwise there is nothing to compare: the arguments of SET, `data` of HSET and
// DEL, a TTL on hashes, and an answer schema that admits every JSON value. Left as the design has
// them: client mistakes count against the breaker, half-open lets every call through, reads ask for
// replicas, /inspector is open. The audit list is bounded, which only makes this peer cheaper.

import { Ajv } from 'ajv';
import express from 'express';
import { Cluster } from 'ioredis';
import { v4 as newRequestId } from 'uuid';

const DEFAULT_TTL_SECONDS = 3600;
const AUDIT_SHOWN = 50;
const AUDIT_KEPT = 1000;

const token = process.env.SERVICE_BEARER_TOKEN;
if (!token) {
  console.error('SERVICE_BEARER_TOKEN is not set');
  process.exit(2);
}
const port = Number(process.env.PORT || 3000);

const nodes = (process.env.REDIS_NODES || '127.0.0.1:6379').split(',').map((address) => {
  const colon = address.lastIndexOf(':');
  return { host: address.slice(0, colon), port: Number(address.slice(colon + 1)) };
});

const backOff = (attempt) => Math.min(attempt * 50, 2000);

// Three of these options do less than they seem to. For its node connections ioredis ignores
// `enableOfflineQueue` and `retryStrategy` given here, and always connects lazily: the first command
// for a node waits for that node's handshake. `lazyConnect` beside `scaleReads`, where the Cluster
// itself would obey it, together with `enableOfflineQueue: false` there, makes every command fail
// until somebody calls connect(); so both stay down here, where the seed has them.
const redis = new Cluster(nodes, {
  scaleReads: 'slave',
  slotsRefreshTimeout: 1000,
  clusterRetryStrategy: backOff,
  dnsLookup: (address, done) => done(null, address),
  redisOptions: {
    enableOfflineQueue: false,
    lazyConnect: true,
    maxRetriesPerRequest: 3,
    retryStrategy: backOff,
  },
});
redis.on('error', (error) => console.error(`redis: ${error.message}`));

const breaker = {
  threshold: 5,
  openMs: 10_000,
  state: 'closed',
  failures: 0,
  failedAt: 0,

  async run(call) {
    if (this.state === 'open') {
      if (Date.now() - this.failedAt <= this.openMs) {
        throw new Error('Circuit breaker open: Redis cluster unavailable');
      }
      this.state = 'half-open';
    }
    try {
      const outcome = await call();
      this.failures = 0;
      this.state = 'closed';
      return outcome;
    } catch (error) {
      this.failures += 1;
      this.failedAt = Date.now();
      if (this.failures >= this.threshold) this.state = 'open';
      throw error;
    }
  },
};

const answerIsValid = new Ajv({ strict: false }).compile({
  type: 'object',
  required: ['success', 'data', 'metadata'],
  properties: {
    success: { type: 'boolean' },
    data: { type: ['object', 'array', 'string', 'number', 'boolean', 'null'] },
    metadata: {
      type: 'object',
      required: ['requestId', 'latencyMs', 'operation'],
      properties: {
        requestId: { type: 'string' },
        latencyMs: { type: 'number' },
        operation: { type: 'string' },
      },
    },
  },
});

async function writeHash(key, fields, ttl) {
  const replies = await redis.multi().hset(key, fields).expire(key, ttl).exec();
  for (const [error] of replies) if (error) throw error;
  return replies[0][1];
}

async function execute({ operation, key, value, ttl, type }) {
  const seconds = ttl || DEFAULT_TTL_SECONDS;
  switch (String(operation).toUpperCase()) {
    case 'SET':
      if (type === 'hash') return { data: await writeHash(key, value, seconds), hit: true };
      return { data: await redis.set(key, JSON.stringify(value), 'EX', seconds), hit: true };
    case 'GET': {
      const stored = await redis.get(key);
      return { data: stored === null ? null : JSON.parse(stored), hit: stored !== null };
    }
    case 'HSET':
      return { data: await writeHash(key, value, seconds), hit: true };
    case 'HGETALL': {
      const fields = await redis.hgetall(key);
      const hit = Object.keys(fields).length > 0;
      return { data: hit ? fields : null, hit };
    }
    case 'DEL':
      return { data: await redis.del(key), hit: true };
    default:
      throw new Error(`Unsupported operation: ${operation}`);
  }
}

const counters = { totalRequests: 0, cacheHits: 0, cacheMisses: 0, totalLatency: 0 };
const audit = [];

function record(request, latencyMs, hit, success) {
  counters.totalRequests += 1;
  counters.totalLatency += latencyMs;
  if (hit) counters.cacheHits += 1;
  else counters.cacheMisses += 1;
  audit.push({
    timestamp: new Date().toISOString(),
    flowId: request.flowId || 'unknown',
    interactionId: request.interactionId || 'unknown',
    operation: request.operation,
    key: request.key,
    latencyMs,
    hitRatio: hit,
    success,
  });
  if (audit.length > AUDIT_KEPT) audit.splice(0, AUDIT_KEPT - AUDIT_SHOWN);
}

function isAuthorised(headers) {
  const given = headers.authorization;
  return given !== undefined && given.startsWith('Bearer ') && given.split(' ')[1] === token;
}

const app = express();
app.use(express.json());

app.post('/data-action/redis', async (req, res) => {
  if (!isAuthorised(req.headers)) return res.status(401).json({ error: 'Unauthorized' });
  const startedAt = Date.now();
  const request = req.body ?? {};
  const requestId = newRequestId();
  const { operation } = request;
  try {
    const { data, hit } = await breaker.run(() => execute(request));
    const latencyMs = Date.now() - startedAt;
    const answer = { success: true, data, metadata: { requestId, latencyMs, operation } };
    if (!answerIsValid(answer)) {
      return res.status(500).json({ error: 'Internal schema validation failure' });
    }
    record(request, latencyMs, hit, true);
    return res.json(answer);
  } catch (error) {
    const latencyMs = Date.now() - startedAt;
    record(request, latencyMs, false, false);
    return res.status(503).json({
      success: false,
      data: null,
      metadata: { requestId, latencyMs, operation },
      error: error.message,
    });
  }
});

app.get('/inspector', (_req, res) => {
  const { totalRequests, cacheHits, totalLatency } = counters;
  const perRequest = (sum) => (totalRequests > 0 ? sum / totalRequests : 0);
  res.json({
    metrics: {
      ...counters,
      hitRatio: perRequest(cacheHits).toFixed(4),
      avgLatencyMs: perRequest(totalLatency).toFixed(2),
    },
    auditLogs: audit.slice(-AUDIT_SHOWN),
    circuitState: breaker.state,
    redisClusterStatus: redis.status,
  });
});

redis.once('ready', () => {
  app.listen(port, '127.0.0.1', () => console.log(`listening on port ${port}`));
});
