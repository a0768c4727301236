// Prints the first message of a stream as rabbitmq-stream-js-client reads it: each of its fields, as JSON.

const { connect, Offset } = require('rabbitmq-stream-js-client');

async function main() {
  const url = new URL(process.env.AMQP_URL);
  const port = Number(process.env.STREAM_PORT);
  const client = await connect({
    hostname: url.hostname,
    port,
    username: decodeURIComponent(url.username),
    password: decodeURIComponent(url.password),
    vhost: decodeURIComponent(url.pathname.slice(1)),
  });
  const message = await new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error('no message came')), 60000);
    client.declareConsumer({ stream: process.env.STREAM, offset: Offset.first() }, resolve).catch(reject);
  });
  const { messageProperties: of } = message;
  console.log(JSON.stringify({
    message_id: of.messageId,
    correlation_id: of.correlationId,
    content_type: of.contentType,
    content_encoding: of.contentEncoding,
    reply_to: of.replyTo,
    user_id: of.userId && of.userId.toString(),
    creation_time: of.creationTime && of.creationTime.getTime(),
    group_id: of.groupId,
    annotations: message.messageAnnotations,
    application: message.applicationProperties,
    body: message.content.toString(),
  }));
  process.exit(0);
}

main().catch((error) => { console.error(error); process.exit(1); });
