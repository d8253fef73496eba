// One node of an aedes cluster over Redis: node node.mjs PORT REDIS_PORT
import { Aedes } from 'aedes'
import { createServer } from 'net'
import mqemitter from 'mqemitter-redis'
import persistence from 'aedes-persistence-redis'

const [port, redis] = process.argv.slice(2).map(Number)
const broker = await Aedes.createBroker({
  mq: mqemitter({ port: redis, host: '127.0.0.1' }),
  persistence: persistence({ port: redis, host: '127.0.0.1', maxSessionDelivery: 100000 }),
  queueLimit: 100000
})
createServer(broker.handle).listen(port, '127.0.0.1')
