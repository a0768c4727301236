# Takes events from RabbitMQ, and does the work of each once.
#
# The inbox has the ids of the messages whose work is done, and is written in the transaction of the work: a repeat
# finds its id there. A process that is killed loses nothing: what it did not acknowledge comes again.
#
# gem install bunny pg
require "bunny"
require "json"
require "pg"

def work(db, event)
  db.exec_params("INSERT INTO shipments (order_id, step) VALUES ($1, $2)", event.values_at("order", "step"))
end

def once(db, message_id, event)
  db.transaction do
    inserted = db.exec_params("INSERT INTO inbox (message_id) VALUES ($1) ON CONFLICT DO NOTHING", [message_id])
    work(db, event) if inserted.cmd_tuples == 1
  end
end

db = PG.connect(ENV.fetch("DATABASE_URL"))
# The process is started again rather than its connection.
broker = Bunny.new(ENV.fetch("AMQP_URL"), automatically_recover: false).start
channel = broker.create_channel
channel.prefetch(20)
ENV.fetch("QUEUES", "orders").split(",").each do |name|
  # It is there: `pgoutbox init --declare` made it.
  queue = channel.queue(name, passive: true)
  queue.subscribe(manual_ack: true) do |delivery, properties, body|
    once(db, properties.message_id, JSON.parse(body))
    channel.ack(delivery.delivery_tag)
  rescue PG::ConnectionBad, PG::UnableToSend
    # No fault of the event: end, and be started again.
    exit!(1)
  rescue PG::Error, JSON::ParserError => e
    puts "event #{properties.message_id} failed: #{e.message}"
    # Again at once, until the queue's own limit. (nack does not count as a try from RabbitMQ 4.3 on.)
    channel.reject(delivery.delivery_tag, true)
  end
end
sleep 0.1 while broker.open?
exit!(1)
