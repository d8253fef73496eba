// Publish each message of `to/#` again under `from/…`, with MQTT.js: node mqttjs.mjs PORT VERSION PREFIX
import mqtt from 'mqtt'

const [port, version, prefix] = process.argv.slice(2)
const client = mqtt.connect(`mqtt://127.0.0.1:${port}`, { protocolVersion: Number(version) })
client.on('message', (topic, payload, packet) => {
  const back = topic.replace(`${prefix}/to/`, `${prefix}/from/`)
  client.publish(back, payload, { qos: packet.qos })
})
client.on('connect', () => client.subscribe(`${prefix}/to/#`, { qos: 2 }, () => console.log('ready')))
